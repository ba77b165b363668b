"""The sample of the findings on language and on speech: clips balanced over languages, and non-speech sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.findings.core.experiment import Untestable
from hooked_whisper.findings.core.sources import PER_LANGUAGE
from hooked_whisper.findings.speech.encoder_readings import EncoderReadings, read_encoder
from hooked_whisper.findings.speech.non_speech import NonSpeechSound, sounds_like
from hooked_whisper.hooked import HookedWhisper

LANGUAGES = (
    "leave out --corpus and --audio for the packaged speech in five languages, or pass --corpus with two languages or "
    "more (FLEURS, Common Voice, or a table with a `language` column)"
)


@dataclass(frozen=True, eq=False)
class SampleFacts:
    """Facts about a sample of clips.

    Attributes:
        languages, voices: language and voice of each clip.
        named_voices: whether the corpus names speakers.
        repeated_texts: whether several clips have the same text.
        inputs: facts about the clips and sounds for the record.
    """

    languages: tuple[str, ...]
    voices: tuple[str, ...]
    named_voices: bool
    repeated_texts: bool
    inputs: dict[str, Any]

    def voices_of(self, code: str) -> set[str]:
        """Return the voices that speak a language."""
        return {voice for voice, language in zip(self.voices, self.languages, strict=True) if language == code}


@dataclass(frozen=True, eq=False)
class SpeechSample:
    """At most :data:`PER_LANGUAGE` clips of each language, and non-speech sounds at the same level.

    Attributes:
        context: a context whose utterances are the clips.
        languages: language code of each clip.
        sounds: non-speech sounds.
        packaged: whether the clips are the packaged speech in several languages.
    """

    context: Context
    languages: tuple[str, ...]
    sounds: tuple[NonSpeechSound, ...]
    packaged: bool = False

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(u.alignment.speaker or u.id for u in self.context.utterances)

    @property
    def named_voices(self) -> bool:
        """Whether the corpus names speakers. If not, each clip counts as a separate voice."""
        return any(voice != u.id for voice, u in zip(self.voices, self.context.utterances, strict=True))

    @cached_property
    def readings(self) -> EncoderReadings:
        """Activations of every clip and sound, computed once for all findings."""
        return self._read(self.context.model)

    @cached_property
    def untrained(self) -> EncoderReadings:
        """Activations of the untrained model for every clip and sound."""
        return self._read(self.context.untrained)

    @property
    def encoded(self) -> Float[Tensor, "clip position d_model"]:
        """Encoder output of the clips, from the context if another finding has computed it."""
        return self.context.encoded if "encoded" in vars(self.context) else self.readings.encoded

    @property
    def facts(self) -> SampleFacts:
        """Facts about the sample, which a finding records."""
        inputs = dict(self.context.inputs())
        if self.packaged:
            inputs["origin"] = "packaged speech in several languages"
        texts = [u.text for u in self.context.utterances]
        return SampleFacts(
            self.languages,
            self.voices,
            self.named_voices,
            len(set(texts)) < len(texts),
            inputs | {"languages": counted(self.languages), "other_sounds": len(self.sounds)},
        )

    def _read(self, model: HookedWhisper) -> EncoderReadings:
        audio = [u.samples for u in self.context.utterances]
        steps = self.context.track(range(len(audio) + len(self.sounds)), "speech and other sounds")
        return read_encoder(model, audio, [sound.audio for sound in self.sounds], steps)


def require_multilingual(model: HookedWhisper) -> None:
    """Check that the model has language tokens.

    Raises:
        Untestable: the model is English-only.
    """
    if not model.is_multilingual:
        raise Untestable(f"{model.cfg.name} is English-only, expected a multilingual model: run with --model base")


def require_speech_sample(context: Context) -> SpeechSample:
    """Return the result of :func:`speech_sample`.

    Raises:
        Untestable: the context has no speech.
    """
    if not context.utterances and context.language_speech is None:
        raise Untestable(f"no speech: {LANGUAGES}")
    return speech_sample(context)


def speech_sample(context: Context) -> SpeechSample:
    """Return at most :data:`PER_LANGUAGE` clips of each language, alternating between its voices. The result is cached
    in ``context``.

    Clips come from ``context.language_speech`` if it is set, else from the utterances.
    """
    return context.once("speech sample", lambda: _speech_sample(context))


def _speech_sample(context: Context) -> SpeechSample:
    pool = context
    if context.language_speech is not None:
        pool = context.with_utterances(context.language_speech())
    languages = languages_of(pool)
    voices = [u.alignment.speaker for u in pool.utterances]
    indices = balanced_indices(languages, voices, PER_LANGUAGE)
    if len(indices) < len(pool.utterances):
        selected = pool.with_utterances(tuple(pool.utterances[i] for i in indices))
        if "encoded" in vars(pool):
            vars(selected)["encoded"] = pool.encoded[indices]
        pool = selected
    rng = context.rng("sounds that are not speech")
    sounds = sounds_like([u.samples for u in pool.utterances], pool.model.time, rng)
    return SpeechSample(pool, tuple(languages[i] for i in indices), sounds, context.language_speech is not None)


def balanced_indices(languages: Sequence[str], voices: Sequence[str], most: int) -> list[int]:
    """Return the sorted indices of at most ``most`` clips of each language, alternating between its voices."""
    indices: list[int] = []
    for code in sorted(set(languages)):
        queues: dict[str, list[int]] = {}
        for i, language in enumerate(languages):
            if language == code:
                queues.setdefault(voices[i], []).append(i)
        rounds = range(max(map(len, queues.values())))
        indices += [queue[k] for k in rounds for queue in queues.values() if k < len(queue)][:most]
    return sorted(indices)


def languages_of(context: Context) -> list[str]:
    """Return the language code of each utterance, as the corpus gives it in ``alignment.extra["language"]``.

    If the corpus does not give it, the code is the one that a multilingual model detects if its own transcripts are the
    reference, and ``context.language`` otherwise.
    """
    codes = [u.alignment.extra.get("language", "") for u in context.utterances]
    if context.reference == "model" and context.model.is_multilingual and not all(codes):
        detected = detect(context.model, context.encoded)
        return [known or guess for known, guess in zip(codes, detected, strict=True)]
    return [code or context.language for code in codes]


@torch.no_grad()
def detect(model: HookedWhisper, encoded: Float[Tensor, "clip position d_model"]) -> list[str]:
    """Return the code of the most likely language token after ``<|startoftranscript|>``, for each clip."""
    ids, codes = list(model.tokenizer.all_language_tokens), list(model.tokenizer.all_language_codes)
    detected: list[str] = []
    for batch in encoded.split(ENCODER_BATCH):
        logits = model.logits(start_tokens(model, len(batch)), batch)[:, 0, ids]
        detected += [codes[k] for k in logits.argmax(-1).tolist()]
    return detected


def start_tokens(model: HookedWhisper, n: int) -> Int[Tensor, "clip 1"]:
    """Return ``<|startoftranscript|>`` for each of ``n`` clips."""
    return torch.full((n, 1), model.tokenizer.sot, device=model.device)


def counted(languages: Sequence[str]) -> str:
    """Format the number of clips of each language, as in ``"10 of en, 10 of es"``."""
    codes, counts = np.unique(list(languages), return_counts=True)
    return ", ".join(f"{n} of {code}" for code, n in zip(codes, counts, strict=True))
