"""Pack several clips into one window: the encoder needs the same time for 30 s of silence as for 30 s of speech."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from hooked_whisper.corpora.clips import Clip

GAP = 0.25  # seconds of silence between two clips
SPARE = 0.5  # seconds left free at the end of the window


def window_groups(clips: Sequence[Clip], room: float, gap: float = GAP) -> list[list[int]]:
    """Group successive clips of each speaker so that a group lasts at most ``room`` seconds, gaps included.

    A longer clip is a group by itself. Groups are in the order of the speakers' first clips.
    """
    by_speaker: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        by_speaker.setdefault(clip.speaker, []).append(i)
    groups: list[list[int]] = []
    for members in by_speaker.values():
        seconds = math.inf
        for i in members:
            length = clips[i].duration
            if seconds + gap + length > room:
                groups.append([])
                seconds = -gap
            groups[-1].append(i)
            seconds += gap + length
    return groups


def clip_starts(clips: Sequence[Clip], gap: float = GAP, multiple: int = 1) -> list[int]:
    """Return the first sample of each clip when clips are joined with ``gap`` seconds of silence between them.

    multiple: clips start at multiples of this number of samples; the silence is lengthened as needed.
    """
    starts: list[int] = []
    end = 0
    for clip in clips:
        start = end + round(gap * clip.sample_rate) if starts else 0
        start += -start % multiple
        starts.append(start)
        end = start + len(clip.samples)
    return starts


def join_samples(
    clips: Sequence[Clip], gap: float = GAP, multiple: int = 1
) -> tuple[Float[np.ndarray, "sample"], list[int]]:
    """Join the sound of clips with silence between them; return the samples and :func:`clip_starts`."""
    starts = clip_starts(clips, gap, multiple)
    samples = np.zeros(starts[-1] + len(clips[-1].samples), np.float32)
    for start, clip in zip(starts, clips, strict=True):
        samples[start : start + len(clip.samples)] = clip.samples
    return samples, starts
