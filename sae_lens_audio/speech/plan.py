"""Plan the passages of the training speech: who says what, and how the recording sounds."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, cast, get_args

from hooked_whisper.errors import ConfigError, check_option
from hooked_whisper.neural.tables import voice_table
from sae_lens_audio.speech.sentences import sentences

Synthesizer = Literal["kokoro", "flite"]
Sound = Literal["clean", "room", "noise"]
FLITE_VOICES = ("slt", "rms", "awb")
MEAN_S = 27.0  # expected duration of a passage
SENTENCES = 20  # more than a passage can hold
SOUNDS: Mapping[Sound, float] = {"clean": 0.5, "room": 0.25, "noise": 0.25}
"""Share of the passages with each sound."""


@dataclass(frozen=True)
class Passage:
    """One planned recording of at most 29 s.

    Attributes:
        id: unique name, such as ``"kokoro-00012"``.
        texts: sentences; those that do not fit are left out.
        sound: ``"clean"``, ``"room"`` (reverberation) or ``"noise"``.
        seed: of the room or noise.
    """

    id: str
    synthesizer: Synthesizer
    voice: str
    texts: tuple[str, ...]
    sound: Sound
    seed: int

    @property
    def speaker(self) -> str:
        return f"{self.synthesizer}-{self.voice}"

    @property
    def language(self) -> str:
        return "en"

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the recording."""
        parts = (self.synthesizer, self.voice, self.sound, str(self.seed), *self.texts)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def plan_passages(hours: Mapping[str, float], seed: int = 0) -> list[Passage]:
    """Return the passages for a number of hours per synthesizer.

    Fewer hours give the first passages of the same plan, so a larger corpus contains the smaller ones.

    Args:
        hours: such as ``{"kokoro": 1.5, "flite": 3.5}``.
        seed: of the sentences, voices and sounds.

    Raises:
        ConfigError: an unknown synthesizer, or hours that are negative or not finite.
    """
    passages: list[Passage] = []
    for synthesizer, number_of_hours in hours.items():
        check_option("synthesizer", synthesizer, get_args(Synthesizer), ConfigError)
        if not (math.isfinite(number_of_hours) and number_of_hours >= 0):
            raise ConfigError(f"hours of {synthesizer}: got {number_of_hours}, expected a number from 0 upward")
        passages += islice(_passages(cast(Synthesizer, synthesizer), seed), math.ceil(number_of_hours * 3600 / MEAN_S))
    return passages


def voices_of(synthesizer: Synthesizer) -> tuple[str, ...]:
    """Return the voices of a synthesizer. Kokoro's held-out voices, which evaluations use, are left out."""
    check_option("synthesizer", synthesizer, get_args(Synthesizer), ConfigError)
    if synthesizer == "flite":
        return FLITE_VOICES
    return tuple(voice.name for voice in voice_table() if (voice.language, voice.split) == ("en", "train"))


def _passages(synthesizer: Synthesizer, seed: int) -> Iterator[Passage]:
    name = int.from_bytes(hashlib.sha256(f"{synthesizer} {seed}".encode()).digest()[:8])
    draw, text, voices = random.Random(name), sentences(name), voices_of(synthesizer)
    number = 0
    while True:
        yield Passage(
            f"{synthesizer}-{number:05d}",
            synthesizer,
            voices[number % len(voices)],
            tuple(islice(text, SENTENCES)),
            draw.choices(list(SOUNDS), list(SOUNDS.values()))[0],
            draw.getrandbits(32),
        )
        number += 1
