"""Several clips in one window: a 30 s window costs the encoder the same however little is said in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from hooked_whisper.corpora.clips import Clip

GAP = 0.25  # seconds of silence between two clips
SPARE = 0.5  # seconds left free at the end of the window


def window_groups(clips: Sequence[Clip], room: float, gap: float = GAP) -> list[list[int]]:
    """Group clips of one speaker, in their order, as many as fit in ``room`` seconds; a longer clip is a group alone.

    Groups are in the order of the speakers' first clips.
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


def join_samples(
    clips: Sequence[Clip], gap: float = GAP, multiple: int = 1
) -> tuple[Float[np.ndarray, "sample"], list[int]]:
    """Join the sound of clips with silence between them; return the samples and the sample where each clip starts.

    multiple: clips start at multiples of this many samples; the silence is longer where needed.
    """
    rate = clips[0].sample_rate
    parts: list[np.ndarray] = []
    starts: list[int] = []
    length = 0
    for clip in clips:
        silence = 0
        if parts:
            silence = round(gap * rate)
            silence += -(length + silence) % multiple
            parts.append(np.zeros(silence, np.float32))
        starts.append(length + silence)
        parts.append(np.asarray(clip.samples, np.float32))
        length += silence + len(clip.samples)
    return np.concatenate(parts), starts
