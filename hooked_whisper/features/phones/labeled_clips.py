"""Clips with their alignments from a corpus of recordings of any length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Clip, Recording, Window, windows_from
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment

MIN_SECONDS = 0.1  # windows with less sound are skipped


class LabeledClips(NamedTuple):
    """Clips, and the recordings that could not be read: id and reason."""

    clips: list[Clip]
    failures: list[tuple[str, str]]


@renamed_arguments(most="max_clips")
def labeled_clips(
    model: HookedWhisper, corpus: Sequence[Recording], max_clips: int, *, phones_only: bool = False
) -> LabeledClips:
    """Return the first clips of a corpus: whole recordings, or windows of recordings longer than the model's window.

    Args:
        phones_only: skip recordings without phones. Otherwise a recording without an alignment becomes a clip with its
            text and no phones.
    """
    time = model.time
    clips: list[Clip] = []
    failures: list[tuple[str, str]] = []
    last_read: tuple[int, Alignment | None] = (-1, None)
    windows = windows_from(corpus, time.n_samples, failed=lambda failure: failures.append((failure.id, failure.reason)))
    with closing(windows):
        for window in windows:
            if len(clips) == max_clips:
                break
            recording = corpus[window.recording]
            if last_read[0] != window.recording:
                last_read = (window.recording, _alignment(recording, window, time, failures))
            alignment = last_read[1]
            if alignment is None or window.length < MIN_SECONDS * time.sample_rate:
                continue
            if phones_only and not alignment.phones:
                continue
            offset, speaker = window.number * time.duration, recording.speaker or alignment.speaker or recording.id
            clips.append(Clip.aligned(window.samples[: window.length].numpy(), alignment, speaker, offset))
    return LabeledClips(clips, failures)


def _alignment(recording: Recording, first: Window, time: TimeMap, failures: list[tuple[str, str]]) -> Alignment | None:
    """Return the alignment, or one with the text only; ``None`` (and a failure) if it cannot be read."""
    try:
        alignment = recording.alignment()
    except (AlignmentError, AudioError, OSError) as error:
        failures.append((recording.id, str(error)))
        return None
    if alignment is not None:
        return alignment
    # of a longer recording only the first window is known: any duration above one window will do
    seconds = first.length / time.sample_rate if first.last else 2 * time.duration
    return Alignment(recording.id, recording.speaker, recording.text, seconds)
