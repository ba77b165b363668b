"""The phone or word at each encoder position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked_whisper._support.showing import Showing
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import SILENCE, Alignment, Interval

Tier = Literal["phones", "words"]
UNLABELED = -1  # no interval contains the position, or its label is not among the names


@dataclass(frozen=True, eq=False, repr=False)
class PositionLabels(Showing):
    """Labels of the positions of one window.

    Attributes:
        names: labels.
        ids: index into ``names``; :data:`UNLABELED` for none.
        instance: index of the interval in its tier, which separates two ``d`` in a row; -1 for none.
        edge: whether a boundary is within one position (20 ms) of the center, so that the label is uncertain.
        onset: whether this is the first position of its interval; false if the interval began before the window.
    """

    names: tuple[str, ...]
    ids: Int[np.ndarray, "position"]
    instance: Int[np.ndarray, "position"]
    edge: Bool[np.ndarray, "position"]
    onset: Bool[np.ndarray, "position"]

    def tokens(self, counted: Bool[np.ndarray, "position"] | None = None) -> Int[np.ndarray, "label"]:
        """Number of intervals of each label that have a position here, among the positions ``counted``."""
        labeled = (self.ids >= 0) if counted is None else (self.ids >= 0) & counted
        pairs = np.unique(np.stack([self.ids[labeled], self.instance[labeled]]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.names)).astype(np.int64)


def label_names(alignments: Iterable[Alignment], tier: Tier = "phones") -> tuple[str, ...]:
    """All labels that occur, sorted, with silence first."""
    check_option("tier", tier, get_args(Tier), AlignmentError)
    labels = {interval.label for alignment in alignments for interval in _tier(alignment, tier)}
    return tuple(sorted(labels, key=lambda label: (label != SILENCE, label)))


def label_positions(
    alignment: Alignment,
    n_positions: int,
    names: Sequence[str],
    time: TimeMap | None = None,
    offset: float | int = 0.0,
    tier: Tier = "phones",
) -> PositionLabels:
    """Label each position of a window by the interval that contains its center, ``offset + 0.02 i`` seconds.

    An interval contains its start but not its end; a time within a millionth of a position of an edge is on it, as in
    :meth:`TimeMap.span`. Empty intervals contain nothing. The start and end of the recording are not boundaries.

    Args:
        n_positions: positions to label; ``time.n_positions(duration)`` excludes padding.
        names: labels; other labels become :data:`UNLABELED`.
        time: time map of the model (default: Whisper's).
        offset: start of this window within the recording, seconds.

    Raises:
        AlignmentError: intervals overlap, ``n_positions`` exceeds the window, or a name is given twice.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    clock = TimeMap() if time is None else time
    if not 0 <= n_positions <= clock.n_ctx:
        raise AlignmentError(f"n_positions is {n_positions}, expected 0 to {clock.n_ctx}: cut longer audio")
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        raise AlignmentError(f"a name is given twice in {list(names)}: give each label once")
    tiers = sorted((i for i in _tier(alignment, tier) if i.end > i.start), key=lambda i: i.start)
    starts, ends, duration = (
        np.round((np.array(times, dtype=float) - offset) / clock.seconds_per_position, 6)
        for times in ([i.start for i in tiers], [i.end for i in tiers], [alignment.duration])
    )
    _check_overlap(alignment, starts, ends, tiers)
    positions = np.arange(n_positions)
    k = np.searchsorted(starts, positions, side="right") - 1
    inside = (k >= 0) & (positions < np.append(ends, 0.0)[k])  # k = -1 reads the appended entry and is outside anyway
    known = np.array([index.get(i.label, UNLABELED) for i in tiers] + [UNLABELED], dtype=np.int64)
    first = np.append(np.ceil(starts), -1.0)[k]
    return PositionLabels(
        tuple(names),
        np.where(inside, known[k], UNLABELED),
        np.where(inside, k, -1),
        _near_boundary(positions, starts, ends, -offset / clock.seconds_per_position, float(duration[0])),
        inside & (positions == first),
    )


def _tier(alignment: Alignment, tier: Tier) -> tuple[Interval, ...]:
    return alignment.phones if tier == "phones" else alignment.words


def _check_overlap(
    alignment: Alignment,
    starts: Float[np.ndarray, "interval"],
    ends: Float[np.ndarray, "interval"],
    intervals: Sequence[Interval],
) -> None:
    over = np.flatnonzero(ends[:-1] > starts[1:] + 1e-5)
    if len(over):
        a, b = intervals[over[0]], intervals[over[0] + 1]
        raise AlignmentError(
            f"{alignment.utterance}: {a.label!r} ends at {a.end:g} s, after {b.label!r} began at {b.start:g} s; "
            "correct the alignment: intervals of a tier must not overlap"
        )


def _near_boundary(
    positions: Int[np.ndarray, "position"],
    starts: Float[np.ndarray, "interval"],
    ends: Float[np.ndarray, "interval"],
    first: float,
    last: float,
) -> Bool[np.ndarray, "position"]:
    edges = np.unique(np.concatenate([starts, ends]))
    edges = edges[(edges > first + 1e-5) & (edges < last - 1e-5)]
    if not len(edges):
        return np.zeros(len(positions), dtype=bool)
    right = np.searchsorted(edges, positions)
    gap_right = np.abs(edges[np.minimum(right, len(edges) - 1)] - positions)
    gap_left = np.abs(edges[np.maximum(right - 1, 0)] - positions)
    return np.minimum(gap_left, gap_right) <= 1 + 1e-6
