"""Excerpts of a recording that show an example. They start on a grid, so that examples share them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hooked_whisper.audio import TimeMap
from hooked_whisper.protocols import Alignment, Interval

LENGTH_S, STEP_S = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Encoder positions ``[first, stop)`` of a recording, within one of the model's windows."""

    recording: int
    first: int
    stop: int


def excerpt_round(recording: int, position: int, n_positions: int, clock: TimeMap) -> Excerpt:
    """Three seconds that start at a whole second and have the position near their middle.

    The excerpt is shorter if the recording, or the window that contains the position, is shorter.

    n_positions: of the recording.
    """
    length, step = round(LENGTH_S / clock.seconds_per_position), round(STEP_S / clock.seconds_per_position)
    window = position // clock.n_ctx * clock.n_ctx
    end = min(n_positions, window + clock.n_ctx)
    first = window + round((position - window - length / 2) / step) * step
    first = max(window, min(first, end - length))
    return Excerpt(recording, first, min(end, first + length))


def captions(alignment: Alignment, start_s: float, end_s: float) -> tuple[tuple[Interval, ...], tuple[Interval, ...]]:
    """Words and phones in a span, with times from its start; intervals are cut at its edges."""

    def within(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
        cut = ((max(i.start, start_s), min(i.end, end_s), i.label) for i in intervals)
        return tuple(Interval(a - start_s, b - start_s, label) for a, b, label in cut if b > a)

    return within(alignment.words), within(alignment.phones)


def linear_histogram(
    counts: np.ndarray, edges: np.ndarray, largest: float, n_bins: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a scan's histogram of positive activations to bins of equal width.

    Activations are taken to be uniform within each bin of the scan.

    Args:
        counts: of one feature; the first bin is that of values that are not positive.
        edges: of the positive bins.
        largest: the feature's largest activation.

    Returns:
        edges ``[n_bins + 1]`` and counts ``[n_bins]``, which sum to the positive counts.
    """
    bounds = np.linspace(0, largest, n_bins + 1)
    below = np.concatenate([[0.0], np.cumsum(counts[1:], dtype=float)])
    reached = np.minimum(edges, largest)
    return bounds, np.diff(np.rint(np.interp(bounds, reached, below)), prepend=0)[1:].astype(np.int64)
