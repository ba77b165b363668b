"""New sentences of the synthetic corpus as recordings, synthesized when their audio or alignment is read."""

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

_CACHED = 64  # number of recordings; 64 of 2 s need 8 MB


def held_out_sentences(synthetic: SyntheticCorpus, count: int, seed: int) -> list[str]:
    """Return new sentences of three words or more that are not in the training corpus."""
    known = _trained(synthetic.grammar)
    sentences: dict[str, None] = {}
    for text in synthetic.grammar.sentences(np.random.default_rng([seed, 77])):
        if len(text.split()) >= 3 and text not in known:
            sentences[text] = None
        if len(sentences) == count:
            break
    return list(sentences)


@lru_cache(2)
def _trained(grammar: Grammar) -> frozenset[str]:
    """Return the sentences of the training corpus. They are sampled again, which takes about a second."""
    shards = plan(CorpusConfig(seed=grammar.seed), grammar)
    return frozenset(job.text for name, jobs in shards.items() if name.startswith("train") for job in jobs)


def synthetic_recordings(
    synthetic: SyntheticCorpus, n: int, seed: int = 0, speakers: str | Sequence[str] = "held-out"
) -> list[Recording]:
    """Return recordings of ``n`` sentences that were not in training, with text, speaker, words and phones.

    A recording is synthesized when its audio or alignment is read. This takes about 15 ms, and the last 64 recordings
    are cached. The samples depend only on the sentence and the voice, not on the order of reading (see
    :func:`espeak.fresh`). Reading a sentence whose words espeak-ng merges raises an ``AudioError``.

    Args:
        speakers: ``"held-out"``, ``"train"``, or ids of espeak-ng's voices. The voices take turns.

    Raises:
        ValueError: ``n < 1``, or espeak-ng does not have a voice.
        MissingExtraError: espeak-ng is not installed.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    selected = espeak_voices(speakers)
    try:
        espeak.engine()
    except RuntimeError as error:
        raise MissingExtraError(str(error)) from error
    booth = _Booth()
    corpus = []
    for k, text in enumerate(held_out_sentences(synthetic, n, seed)):
        speaker = selected[k % len(selected)].id
        job = Job(f"{speaker}-{k:05d}", text, speaker, 1.0, 0.0)
        sound, find = partial(booth.sound, job), partial(booth.alignment, job)
        corpus.append(Recording(job.utterance, sound, speaker=speaker, text=text, find_alignment=find))
    return corpus


class _Booth:
    """Synthesizes one utterance at a time, and caches the last ones."""

    def __init__(self) -> None:
        self._lock = Lock()  # all copies of espeak-ng 1.51 share the C library's random generator
        self._speak = lru_cache(_CACHED)(self._speak_now)

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
            raise AudioError(f"recording {job.utterance!r} cannot be synthesized ({error}): leave it out") from error
