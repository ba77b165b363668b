"""A clip: the samples of a recording, or of a part of it, in memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora.records import Recording
from hooked_whisper.protocols import Alignment


@dataclass(frozen=True, eq=False)
class Clip:
    """Samples of a recording, loaded.

    Attributes:
        recording: where the samples come from; id, speaker, text and alignment are its own.
        samples: 16 kHz mono.
        offset: where in the recording the samples begin, seconds.
    """

    recording: Recording
    samples: Float[np.ndarray, "sample"]
    offset: float | int = 0.0

    @classmethod
    def load(cls, recording: Recording) -> Clip:
        """Decode a whole recording.

        Raises:
            AudioError: the file is missing or broken.
        """
        return cls(recording, recording.audio().numpy())

    @classmethod
    def aligned(
        cls,
        samples: Float[np.ndarray, "sample"],
        alignment: Alignment,
        speaker: str | None = None,
        offset: float | int = 0.0,
    ) -> Clip:
        """Make a clip from samples and their alignment, as synthesis and edits of speech give them.

        Args:
            speaker: default: the alignment's.
            offset: where the samples begin in the recording of the alignment, seconds.
        """
        recording = Recording(
            alignment.utterance,
            samples,
            speaker=alignment.speaker if speaker is None else speaker,
            text=alignment.text,
            find_alignment=partial(_same, alignment),
        )
        return cls(recording, samples, offset)

    def with_alignment(self, alignment: Alignment) -> Clip:
        """Return the same samples with another alignment, and its id and text; its speaker too if it names one."""
        recording = replace(
            self.recording,
            id=alignment.utterance,
            speaker=alignment.speaker or self.speaker,
            text=alignment.text,
            find_alignment=partial(_same, alignment),
        )
        return replace(self, recording=recording)

    @property
    def id(self) -> str:
        return self.recording.id

    @property
    def speaker(self) -> str:
        return self.recording.speaker

    @property
    def text(self) -> str:
        return self.recording.text

    @cached_property
    def alignment(self) -> Alignment:
        """Words and phones in seconds from the start of the recording; without either if nobody aligned it.

        Raises:
            AlignmentError: the alignment file is broken.
        """
        end = self.offset + self.duration
        return self.recording.alignment() or Alignment(self.id, self.speaker, self.text, end)

    if not TYPE_CHECKING:

        @property
        def audio(self) -> Float[np.ndarray, "sample"]:
            """The name of ``samples`` in version 0.1."""
            warnings.warn("Clip.audio is now called Clip.samples", RenamedWarning, stacklevel=2)
            return self.samples

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def duration(self) -> float:
        """Seconds of the samples."""
        return len(self.samples) / SAMPLE_RATE


def _same(alignment: Alignment) -> Alignment:
    return alignment
