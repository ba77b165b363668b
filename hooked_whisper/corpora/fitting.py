"""Check the times of an alignment against the duration of its audio."""

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

_BEYOND_S = 0.1  # tolerance: aligners count whole frames and pad the audio


def fitted(alignment: Alignment, source: Any, name: str) -> Alignment:
    """Return the alignment with times from the start of its audio.

    A TextGrid that begins after 0 is read with times relative to its start, which is right if its audio was cut out
    too. If the audio is as long as the TextGrid's end time, it is the whole recording, and the times of the file are
    restored. Durations are not checked for URLs and for formats that PyAV decodes (m4a).

    Args:
        source: the recording's :attr:`~hooked_whisper.corpora.Recording.source`.

    Raises:
        AlignmentError: a word or phone ends more than 0.1 s after the audio.
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
    spoken = [i for i in (*alignment.words, *alignment.phones) if i.label != SILENCE]
    last = max(spoken, key=lambda interval: interval.end, default=None)
    if seconds is not None and last is not None and last.end > seconds + _BEYOND_S:
        raise AlignmentError(
            f"{name}: {last.label!r} of its alignment ends at {last.end:.2f} s, but the audio lasts {seconds:.2f} s: "
            "use the alignment of this recording"
        )
    return alignment


def _seconds(source: Any) -> float | None:
    """Return the duration of audio if it is known without decoding, else ``None``, also for broken files."""
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
