"""Clips for experiments, and the truth if it is known: from the synthetic corpus, the packaged speech, or
recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hooked_whisper.corpora import Clip, Failure, Recording
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.corpus_clips import CorpusClips, balanced, clips_of, origin_of
from hooked_whisper.findings.core.synthetic_truth import Truth, make_truth
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic.recordings import held_out_sentences
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus

LEAD = 0.5  # seconds of silence before a synthetic clip, so that a cut can be moved ahead of its first word
DEMO = "demo"
PER_LANGUAGE = 10  # clips per language: 5 languages need 50 encoder passes, half a minute for base on two cores
FURTHER = 200  # more clips for findings on phones: with the first 100, most phones occur 50 times or more


Further = Callable[[], tuple[Clip, ...]]


@dataclass(frozen=True)
class PreparedClips:
    """Clips and a sentence that describes their origin."""

    utterances: tuple[Clip, ...]
    origin: str


def synthetic_corpus_of(model: str) -> SyntheticCorpus | None:
    """Return the synthetic corpus of a model: the packaged one for ``demo``, or one saved beside the weights."""
    if model == DEMO:
        return SyntheticCorpus.default()
    folder = Path(model)
    return SyntheticCorpus.load(folder) if (folder / "grammar.json").is_file() else None


def truth_of(synthetic: SyntheticCorpus, model: HookedWhisper) -> Truth:
    """Return the truth about a synthetic corpus, with this model's token ids."""
    from hooked_whisper.synthetic.corpus import CorpusConfig
    from hooked_whisper.synthetic.grammar import MAX_WORDS, MIN_WORDS

    return make_truth(
        synthetic.words,
        {word: model.to_single_token(f" {word}") for word in synthetic.words},
        model.tokenizer.eot,
        np.asarray(synthetic.transition_matrix),
        synthetic.sounds.phones,
        synthetic.sounds.rhyme_of,
        shortest=MIN_WORDS,
        longest=MAX_WORDS,
        sentences=CorpusConfig().train,
        class_of=synthetic.grammar.class_of,
    )


def synthetic_clips(synthetic: SyntheticCorpus, count: int, seed: int = 0) -> PreparedClips:
    """Synthesize held-out sentences with the held-out espeak-ng speakers in turn. Without espeak-ng, return packaged
    clips."""
    speakers = [s.id for s in synthetic.speakers if s.split == "held-out" and s.synthesizer == "espeak"]
    texts = held_out_sentences(synthetic, 2 * count, seed)  # twice as many: the synthesizer runs words together in some
    try:
        utterances = _spoken(synthetic, texts, speakers, count)
    except (RuntimeError, OSError, ImportError) as error:
        return packaged_clips(synthetic, count, f"no synthesizer ({error})")
    return PreparedClips(
        utterances,
        f"{len(utterances)} held-out sentences spoken by held-out speakers {', '.join(speakers)} (espeak-ng)",
    )


def further_clips(
    synthetic: SyntheticCorpus, taken: Sequence[Clip], count: int = FURTHER, seed: int = 0
) -> tuple[Clip, ...]:
    """Synthesize held-out sentences that are not in ``taken``, with all held-out speakers in turn (flite's if
    installed).

    Without espeak-ng, return the packaged clips that are not in ``taken``.
    """
    known = {u.text for u in taken}
    voices = [s for s in synthetic.speakers if s.split == "held-out"]
    speakers = [s.id for s in voices if s.synthesizer == "espeak" or shutil.which(s.synthesizer)]
    texts = [t for t in held_out_sentences(synthetic, 2 * (count + len(taken)), seed) if t not in known]
    try:
        return _spoken(synthetic, texts, speakers, count, "more-")
    except (RuntimeError, OSError, ImportError):
        names = {u.id for u in taken}
        return tuple(u for u in packaged_clips(synthetic, len(taken) + count, "").utterances if u.id not in names)


def _spoken(
    synthetic: SyntheticCorpus, texts: Sequence[str], speakers: Sequence[str], count: int, prefix: str = ""
) -> tuple[Clip, ...]:
    """Synthesize up to ``count`` of the texts with the speakers in turn. Texts that cannot be synthesized are
    skipped."""
    utterances: list[Clip] = []
    for text in texts:
        if len(utterances) == count:
            break
        speaker = speakers[len(utterances) % len(speakers)]
        try:
            audio, alignment = synthetic.say(text, speaker)
        except ValueError:
            continue
        utterances.append(_with_lead(audio, replace(alignment, utterance=f"{prefix}{speaker}-{len(utterances):03d}")))
    return tuple(utterances)


def packaged_clips(synthetic: SyntheticCorpus, count: int, why: str) -> PreparedClips:
    """Return the packaged held-out recordings. ``why`` says why they are used; it becomes part of the origin."""
    clips = synthetic.clips()[:count]
    utterances = tuple(_with_lead(clip.samples, clip.alignment) for clip in clips)
    return PreparedClips(utterances, f"{why}: the {len(utterances)} packaged held-out clips instead")


def _with_lead(audio: np.ndarray, alignment: Alignment) -> Clip:
    lead = np.zeros(round(LEAD * 16_000), np.float32)
    return Clip.aligned(np.concatenate([lead, audio.astype(np.float32)]), alignment.shifted(LEAD))


def packaged_speech_clips(model: HookedWhisper, count: int, seed: int = 0) -> tuple[CorpusClips, Further]:
    """Return ``count`` sentences of the packaged speech, held-out voices first, and a function that loads the others.

    Raises:
        AudioError: this installation has no packaged speech.
    """
    from hooked_whisper.corpora.packaged import packaged_speech

    held_out, others = (balanced(packaged_speech("prose", split=split)) for split in ("held-out", "train"))
    corpus = [*held_out, *others]
    return (
        clips_of(model, corpus[:count], own_times=False),
        lambda: clips_of(model, corpus[count:], own_times=False).utterances if corpus[count:] else (),
    )


def packaged_language_clips(model: HookedWhisper) -> tuple[Clip, ...]:
    """Return :data:`PER_LANGUAGE` packaged sentences in each language, spoken by its voices in turn.

    Raises:
        AudioError: this installation has no packaged speech.
    """
    from hooked_whisper.corpora.packaged import LANGUAGES, packaged_speech

    by_language = (packaged_speech(("prose", "foreign"), language=code) for code in LANGUAGES)
    corpus = [recording for clips in by_language for recording in balanced(clips)[:PER_LANGUAGE]]
    return clips_of(model, corpus, own_times=False).utterances


def corpus_clips(
    model: HookedWhisper, corpus: Sequence[Recording], count: int, language: str, own_texts: bool = True
) -> tuple[CorpusClips, Further]:
    """Return ``count`` recordings of a corpus with the speakers taking turns, and a function that loads the others.

    own_texts: see :func:`~hooked_whisper.findings.core.corpus_clips.clips_of`.
    """
    ordered = balanced(corpus)
    load = partial(clips_of, model, language=language, own_texts=own_texts)
    return (
        load(ordered[:count]),
        lambda: load(ordered[count:], own_times=False).utterances if ordered[count:] else (),
    )


def untrained_twin(model: HookedWhisper, seed: int) -> HookedWhisper:
    """Return a model of the same architecture with seeded random weights. The global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        twin = HookedWhisper(model.cfg)
    return twin.to(device=model.device, dtype=model.dtype).eval()


def make_context(
    model: HookedWhisper,
    name: str,
    *,
    corpus: Sequence[Recording] | None = None,
    corpus_name: str = "",
    utterances: int = 100,
    language: str = "en",
    seed: int = 0,
    speech: bool = True,
    progress: bool = False,
    own_texts: bool = True,
) -> Context:
    """Load everything that experiments need for a model: its untrained twin, clips, and the truth if it is known.

    The clips are those of ``corpus``. Without a corpus, they are new sentences of the synthetic corpus on which the
    model ``name`` was trained, or the packaged speech for a released model.

    Args:
        speech: whether to load clips.
        own_texts: whether recordings without a text get the model's transcript; otherwise they are left out.

    Raises:
        AudioError: none of the recordings can be used.
    """
    synthetic = synthetic_corpus_of(name)
    clips, has_own_texts = PreparedClips((), "none was needed"), False
    further: Further | None = None
    language_speech: Further | None = None
    failures: tuple[Failure, ...] = ()
    if speech and synthetic is not None and corpus is None:
        clips = synthetic_clips(synthetic, utterances, seed)
        further = partial(further_clips, synthetic, clips.utterances, seed=seed)
    elif speech:
        if corpus is None:
            corpus_name = "packaged speech"
            loaded, further = packaged_speech_clips(model, utterances, seed)
            language_speech = partial(packaged_language_clips, model)
        else:
            loaded, further = corpus_clips(model, corpus, utterances, language, own_texts)
        clips, has_own_texts = PreparedClips(loaded.utterances, origin_of(corpus_name, loaded)), loaded.own_texts > 0
        failures = loaded.failures
    return Context(
        model,
        untrained_twin(model, seed),
        clips.utterances,
        None if synthetic is None else truth_of(synthetic, model),
        reference="model" if has_own_texts else "truth",
        language=language,
        seed=seed,
        progress=progress,
        facts={"origin": clips.origin},
        failures=failures,
        more_speech=further,
        language_speech=language_speech,
    )
