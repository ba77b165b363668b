"""Passages joined from recordings that exist: human prompts, and the packaged speech of the training voices."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from hooked_whisper.corpora import Clip, Recording, packaged_speech
from hooked_whisper.corpora.packing import GAP, join_samples, window_groups
from hooked_whisper.errors import ConfigError, check_option
from hooked_whisper.neural.build import LONGEST_S
from sae_lens_audio.speech.plan import SOUNDS, Sound

RecordedKind = Literal["human", "kokoro"]


@dataclass(frozen=True, eq=False)
class SpokenPassage:
    """Samples at 16 kHz and the text that they say."""

    samples: Float[np.ndarray, "sample"]
    text: str


@dataclass(frozen=True, eq=False)
class RecordedPassage:
    """Recordings of one speaker, to be joined with short pauses.

    Attributes:
        id: unique name, such as ``"human-en-Allison-00012"``.
        synthesizer: ``"human"`` or ``"kokoro"``.
        sound, seed: as of :class:`~sae_lens_audio.speech.plan.Passage`.
    """

    id: str
    synthesizer: RecordedKind
    speaker: str
    language: str
    recordings: tuple[Recording, ...] = field(repr=False)
    sound: Sound
    seed: int

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the passage, except the audio of the recordings."""
        parts = (self.id, self.speaker, self.sound, str(self.seed))
        texts = (f"{recording.id} {recording.text}" for recording in self.recordings)
        return hashlib.sha256("\0".join((*parts, *texts)).encode()).hexdigest()

    def read(self) -> SpokenPassage:
        """Decode and join the recordings.

        Raises:
            AudioError: a file is missing or broken.
        """
        samples, _ = join_samples([Clip.load(recording) for recording in self.recordings], GAP)
        return SpokenPassage(samples, " ".join(recording.text for recording in self.recordings))


def join_recordings(
    corpus: Sequence[Recording], name: str, synthesizer: RecordedKind, seed: int = 0
) -> list[RecordedPassage]:
    """Group the recordings of each language and speaker, in random order, into passages of at most 29 s.

    A longer recording is a passage by itself. All audio of one speaker is decoded to measure it.

    Args:
        name: beginning of the ids.
        seed: of the order and of room sound and noise.

    Raises:
        ConfigError: an unknown ``synthesizer``.
    """
    check_option("synthesizer", synthesizer, get_args(RecordedKind), ConfigError)
    passages: list[RecordedPassage] = []
    ordered = sorted(corpus, key=lambda recording: (recording.language, recording.speaker, recording.id))
    for (language, speaker), members in groupby(ordered, lambda recording: (recording.language, recording.speaker)):
        draw = random.Random(f"{name} {language} {speaker} {seed}")
        clips = [Clip.load(recording) for recording in members]
        draw.shuffle(clips)
        for number, group in enumerate(window_groups(clips, LONGEST_S, GAP)):
            passages.append(
                RecordedPassage(
                    f"{name}-{language}-{speaker}-{number:05d}",
                    synthesizer,
                    f"{synthesizer}-{speaker}",
                    language,
                    tuple(clips[k].recording for k in group),
                    draw.choices(list(SOUNDS), list(SOUNDS.values()))[0],
                    draw.getrandbits(32),
                )
            )
    return passages


def packaged_passages(seed: int = 0) -> list[RecordedPassage]:
    """Join the packaged neural speech of the training voices, five languages, into passages.

    Held-out voices and sentences, which evaluations use, are left out.
    """
    return join_recordings(packaged_speech(split="train"), "packaged", "kokoro", seed)
