"""Whether an alignment is that of its audio: its times end where the sound does, and begin at 0."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hooked_whisper.audio.files import seconds_of
from hooked_whisper.audio.g722 import BYTES_PER_SECOND, ENDING
from hooked_whisper.audio.mel import SAMPLE_RATE
from hooked_whisper.corpora.tiers import ORIGIN
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

_BEYOND_S = 0.1  # aligners count in frames, and pad what they align


def fitted(alignment: Alignment, source: Any, name: str) -> Alignment:
    """The alignment, with times from the start of its audio.

    A TextGrid that begins later than 0 was read from its own start, which is that of its audio, if this was cut out
    too. Audio that lasts as long as the TextGrid's last time is the longer recording itself: then the times are those
    of the file. Audio behind URLs, and in containers that PyAV decodes (m4a), is not asked for its length.

    Args:
        source: what :attr:`~hooked_whisper.corpora.Recording.source` is.

    Raises:
        AlignmentError: words or phones more than 0.1 s behind the end of the audio.
    """
    seconds = _seconds(source)
    origin = float(alignment.extra.get(ORIGIN, 0.0))
    if origin:
        extra = {key: note for key, note in alignment.extra.items() if key != ORIGIN}
        if origin > 0 and seconds is not None and seconds > origin + alignment.duration - _BEYOND_S:
            moved = alignment.shifted(origin)
            before = (Interval(0.0, origin, SILENCE),) if moved.phones else ()
            alignment = replace(moved, phones=(*before, *moved.phones))
        alignment = replace(alignment, extra=extra)
    said = [i for i in (*alignment.words, *alignment.phones) if i.label != SILENCE]
    last = max(said, key=lambda interval: interval.end, default=None)
    if seconds is not None and last is not None and last.end > seconds + _BEYOND_S:
        raise AlignmentError(
            f"{name}: {last.label!r} of its alignment ends at {last.end:.2f} s, but the audio lasts {seconds:.2f} s: "
            "give the alignment of this recording"
        )
    return alignment


def _seconds(source: Any) -> float | None:
    """How long audio lasts, if that shows without decoding it; what is wrong with a file shows when it is decoded."""
    try:
        if callable(source):
            source = source()
        if isinstance(source, Mapping):
            array, rate = source.get("array"), source.get("sampling_rate")
            source = (array, rate) if array is not None else source.get("bytes") or source.get("path")
        if isinstance(source, np.ndarray | Tensor):
            source = (source, SAMPLE_RATE)
        if isinstance(source, tuple):
            array, rate = source
            return max(np.shape(array), default=0) / float(rate)
        if isinstance(source, bytes):
            return seconds_of(io.BytesIO(source), "the audio")
        if not isinstance(source, str | Path) or "://" in str(source):
            return None
        path = Path(source)
        if path.suffix.lower() == ENDING:
            return path.stat().st_size / BYTES_PER_SECOND
        with path.open("rb") as stream:
            return seconds_of(stream, repr(str(path)))
    except (AudioError, OSError, TypeError, ValueError, ZeroDivisionError):
        return None
