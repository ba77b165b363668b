"""The synthetic corpus as a corpus: recordings that are spoken when they are asked for, with exact words and phones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from threading import Lock

import numpy as np
from jaxtyping import Float

from hooked_whisper.corpora import Recording
from hooked_whisper.errors import AudioError, MissingExtraError
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic import espeak, voices
from hooked_whisper.synthetic.corpus import CorpusConfig, Job, plan
from hooked_whisper.synthetic.grammar import Grammar
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus, espeak_voices

_KEPT = 64  # recordings of 2 s: 8 MB


def held_out_sentences(synthetic: SyntheticCorpus, count: int, seed: int) -> list[str]:
    """New sentences of the grammar, three words or more, none of which was in training (training is replayed)."""
    known = _trained(synthetic.grammar)
    found: dict[str, None] = {}
    for text in synthetic.grammar.sentences(np.random.default_rng([seed, 77])):
        if len(text.split()) >= 3 and text not in known:
            found[text] = None
        if len(found) == count:
            break
    return list(found)


@lru_cache(2)
def _trained(grammar: Grammar) -> frozenset[str]:
    """Sentences of the training corpus, planned again (about a second)."""
    shards = plan(CorpusConfig(seed=grammar.seed), grammar)
    return frozenset(job.text for name, jobs in shards.items() if name.startswith("train") for job in jobs)


def synthetic_recordings(
    synthetic: SyntheticCorpus, n: int, seed: int = 0, speakers: str | Sequence[str] = "held-out"
) -> list[Recording]:
    """Sentences that were not in training, said by some voices in turn: text, speaker, words and phones are known.

    Nothing is spoken before a recording is asked for its sound or its alignment; that takes about 15 ms, and the last
    64 are remembered. A recording depends on its sentence and voice alone: it is the same to the sample whenever, and
    in whatever order, it is spoken (each has a synthesizer of its own, see :func:`espeak.fresh`).

    Args:
        speakers: ``"held-out"``, ``"train"``, or ids of espeak-ng's voices.

    Raises:
        ValueError: ``n < 1``, or a voice that espeak-ng does not have.
        MissingExtraError: there is no espeak-ng. A sentence whose words it runs together is an ``AudioError`` when
            that recording is asked for.
    """
    if n < 1:
        raise ValueError(f"synthetic_recordings gives at least one recording, got n={n}")
    chosen = espeak_voices(speakers)
    try:
        espeak.engine()
    except RuntimeError as error:
        raise MissingExtraError(str(error)) from error
    booth = _Booth()
    corpus = []
    for k, text in enumerate(held_out_sentences(synthetic, n, seed)):
        speaker = chosen[k % len(chosen)].id
        job = Job(f"{speaker}-{k:05d}", text, speaker, 1.0, 0.0)
        sound, find = partial(booth.sound, job), partial(booth.alignment, job)
        corpus.append(Recording(job.utterance, sound, speaker=speaker, text=text, find_alignment=find))
    return corpus


class _Booth:
    """Speaks, one at a time, and remembers the last few."""

    def __init__(self) -> None:
        self._lock = Lock()  # espeak-ng 1.51 draws noise from the C library's generator, which all copies share
        self._speak = lru_cache(_KEPT)(self._speak_now)

    def sound(self, job: Job) -> Float[np.ndarray, "sample"]:
        return self._speak(job)[0]

    def alignment(self, job: Job) -> Alignment:
        return self._speak(job)[1]

    def _speak_now(self, job: Job) -> tuple[Float[np.ndarray, "sample"], Alignment]:
        try:
            with self._lock, espeak.fresh() as engine:
                return voices.speak(
                    job.text, voices.BY_ID[job.speaker], job.utterance, job.tempo, job.pitch, engine=engine
                )
        except (ValueError, RuntimeError) as error:
            raise AudioError(f"recording {job.utterance!r} cannot be spoken: {error}; leave it out") from error
