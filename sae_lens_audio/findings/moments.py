"""The strongest moments of a feature in labeled clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.corpora import Clip

APART = 25  # positions, 0.5 s: two moments of a clip that are closer are the same
_MOST = 4096  # positions that are searched


@dataclass(frozen=True, slots=True)
class FeatureMoment:
    """A position of a clip, and the activation there."""

    clip: int
    position: int
    value: float


def strongest_moments(
    values: Float[np.ndarray, "row"], starts: Int[np.ndarray, "edge"], most: int, apart: int = APART
) -> list[FeatureMoment]:
    """Return the positions with the largest positive activations, the largest first.

    Args:
        values: activation at every position of the clips.
        starts: ``[clip + 1]``: clip i has the rows ``starts[i]`` to ``starts[i + 1]``.
        apart: least distance of two moments in a clip, in positions.
    """
    n = min(_MOST, len(values))
    rows = np.argpartition(-values, n - 1)[:n] if n else np.zeros(0, dtype=int)
    rows = rows[np.lexsort((rows, -values[rows]))]
    moments: list[FeatureMoment] = []
    for row in rows[values[rows] > 0].tolist():
        clip = int(np.searchsorted(starts, row, side="right")) - 1
        position = row - int(starts[clip])
        if all(m.clip != clip or abs(m.position - position) >= apart for m in moments):
            moments.append(FeatureMoment(clip, position, float(values[row])))
        if len(moments) == most:
            break
    return moments


def word_at(clip: Clip, seconds: float) -> str:
    """Return the word that is said at a time of the clip, in lower case; empty if none is."""
    time = clip.offset + seconds
    return next((w.label.lower() for w in clip.alignment.words if w.start <= time < w.end), "")
