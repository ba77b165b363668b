"""A clip: the samples of a recording, or of a part of it, in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hooked_whisper._support.renamed import RenamedWarning, renamed_property
from hooked_whisper._support.showing import Showing, Summary, described
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora.records import Recording
from hooked_whisper.protocols import Alignment


@dataclass(frozen=True, eq=False, repr=False)
class Clip(Showing):
    """The samples of a recording, or of a part of it.

    Attributes:
        recording: the recording that the samples belong to; it has the id, speaker, text and alignment.
        samples: 16 kHz mono.
        offset: start of the samples in the recording, in seconds.
    """

    recording: Recording
    samples: Float[np.ndarray, "sample"]
    offset: float | int = 0.0

    def summary(self) -> Summary:
        recording = self.recording
        rows = [("speaker", recording.speaker or "-"), ("text", described(recording.text))]
        if self.offset:
            rows.append(("offset", f"{self.offset:.2f} s"))
        return Summary(f"Clip: {recording.id}, {len(self.samples) / SAMPLE_RATE:.2f} s", rows=tuple(rows))

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
        """Make a clip from samples and their alignment, such as synthesized or edited speech.

        Args:
            speaker: default: the speaker of the alignment.
            offset: start of the samples in the recording of the alignment, in seconds.
        """
        recording = Recording(
            alignment.utterance,
            samples,
            speaker=alignment.speaker if speaker is None else speaker,
            text=alignment.text,
            find_alignment=partial(_constant, alignment),
        )
        return cls(recording, samples, offset)

    def with_alignment(self, alignment: Alignment) -> Clip:
        """Return the clip with another alignment, and with its id, text and (unless it is empty) speaker."""
        recording = replace(
            self.recording,
            id=alignment.utterance,
            speaker=alignment.speaker or self.speaker,
            text=alignment.text,
            find_alignment=partial(_constant, alignment),
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
        """Words and phones in seconds from the start of the recording; both are empty if the recording is not aligned.

        Raises:
            AlignmentError: the alignment file is broken.
        """
        end = self.offset + self.duration
        return self.recording.alignment() or Alignment(self.id, self.speaker, self.text, end)

    if not TYPE_CHECKING:  # names of version 0.1
        audio = renamed_property("audio", "samples")

        @property
        def split(self) -> str:
            """The split of a clip of the synthetic corpus, now in the alignment."""
            warnings.warn('Clip.split is now clip.alignment.extra["split"]', RenamedWarning, stacklevel=2)
            return self.alignment.extra.get("split", "")

    @property
    def sample_rate(self) -> int:
        return SAMPLE_RATE

    @property
    def duration(self) -> float:
        """Length of the samples in seconds."""
        return len(self.samples) / SAMPLE_RATE


def _constant(alignment: Alignment) -> Alignment:
    return alignment


def _accept_arguments_of_0_1(init: Callable[..., None]) -> Callable[..., None]:
    """Also accept ``Clip(audio=..., alignment=..., split=...)`` and warn."""

    @wraps(init)
    def accept(
        self: Clip,
        *args: Any,
        audio: Float[np.ndarray, "sample"] | None = None,
        alignment: Alignment | None = None,
        split: str = "",
        **kwargs: Any,
    ) -> None:
        if audio is None or alignment is None:
            init(self, *args, **kwargs)
            return
        warnings.warn("Clip(audio=, alignment=) is now Clip.aligned(samples, alignment)", RenamedWarning, stacklevel=2)
        if split:
            alignment = replace(alignment, extra={**alignment.extra, "split": split})
        init(self, Clip.aligned(audio, alignment).recording, audio, **kwargs)

    return accept


if not TYPE_CHECKING:
    Clip.__init__ = _accept_arguments_of_0_1(Clip.__init__)
