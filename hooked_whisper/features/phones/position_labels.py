"""Which phone or word each encoder position is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import SILENCE, Alignment, Interval

Tier = Literal["phones", "words"]
UNLABELED = -1  # no interval holds this position, or its label is not among the names


@dataclass(frozen=True, eq=False)
class PositionLabels:
    """Labels of the positions of one window.

    Attributes:
        names: what the ids count.
        ids: index into ``names``; :data:`UNLABELED` for none.
        instance: which interval of the tier, in order of time: tells two ``d`` in a row apart; -1 for none.
        edge: whether a boundary lies within one position (20 ms) of the centre, so that the label is uncertain.
        onset: whether this is the first position of its interval. An interval that began before the window has none.
    """

    names: tuple[str, ...]
    ids: Int[np.ndarray, "position"]
    instance: Int[np.ndarray, "position"]
    edge: Bool[np.ndarray, "position"]
    onset: Bool[np.ndarray, "position"]

    def tokens(self, kept: Bool[np.ndarray, "position"] | None = None) -> Int[np.ndarray, "label"]:
        """How many intervals of each label have a position here (of those ``kept``)."""
        there = (self.ids >= 0) if kept is None else (self.ids >= 0) & kept
        pairs = np.unique(np.stack([self.ids[there], self.instance[there]]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.names)).astype(np.int64)


def label_names(alignments: Iterable[Alignment], tier: Tier = "phones") -> tuple[str, ...]:
    """Every label that occurs, sorted, silence first if it occurs."""
    check_option("tier", tier, get_args(Tier), AlignmentError)
    found = {interval.label for alignment in alignments for interval in _tier(alignment, tier)}
    return tuple(sorted(found, key=lambda label: (label != SILENCE, label)))


def label_positions(
    alignment: Alignment,
    n_positions: int,
    names: Sequence[str],
    time: TimeMap | None = None,
    offset: float | int = 0.0,
    tier: Tier = "phones",
) -> PositionLabels:
    """The label at the centre of each position, ``offset + 0.02 i`` seconds into the recording.

    An interval holds its start and not its end; a time within a millionth of a position of an edge is on it, as in
    :meth:`TimeMap.span`. Intervals without length hold nothing. The recording's own start and end are no boundaries.

    Args:
        n_positions: of this window; the clip's own, ``time.n_positions(duration)``, leaves padding out.
        names: labels to tell apart; positions with others get :data:`UNLABELED`.
        time: clock of the model (default: Whisper's).
        offset: start of this window within the recording, seconds.

    Raises:
        AlignmentError: intervals that overlap, more positions than the window has, a name given twice.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    clock = TimeMap() if time is None else time
    if not 0 <= n_positions <= clock.n_ctx:
        raise AlignmentError(f"a window has 0 to {clock.n_ctx} positions, not {n_positions}; cut longer audio")
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        raise AlignmentError("a name stands twice among the names: ids would not be unique")
    tiers = sorted((i for i in _tier(alignment, tier) if i.end > i.start), key=lambda i: i.start)
    starts, ends, duration = (
        np.round((np.array(times, dtype=float) - offset) / clock.seconds_per_position, 6)
        for times in ([i.start for i in tiers], [i.end for i in tiers], [alignment.duration])
    )
    _check_overlap(alignment, starts, ends, tiers)
    at = np.arange(n_positions)
    k = np.searchsorted(starts, at, side="right") - 1
    inside = (k >= 0) & (at < np.append(ends, 0.0)[k])  # k = -1 reads the number appended, and is outside anyway
    known = np.array([index.get(i.label, UNLABELED) for i in tiers] + [UNLABELED], dtype=np.int64)
    first = np.append(np.ceil(starts), -1.0)[k]
    return PositionLabels(
        tuple(names),
        np.where(inside, known[k], UNLABELED),
        np.where(inside, k, -1),
        _near_boundary(at, starts, ends, -offset / clock.seconds_per_position, float(duration[0])),
        inside & (at == first),
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
            "a tier's intervals must not overlap"
        )


def _near_boundary(
    at: Int[np.ndarray, "position"],
    starts: Float[np.ndarray, "interval"],
    ends: Float[np.ndarray, "interval"],
    first: float,
    last: float,
) -> Bool[np.ndarray, "position"]:
    edges = np.unique(np.concatenate([starts, ends]))
    edges = edges[(edges > first + 1e-5) & (edges < last - 1e-5)]
    if not len(edges):
        return np.zeros(len(at), dtype=bool)
    right = np.searchsorted(edges, at)
    gap_right = np.abs(edges[np.minimum(right, len(edges) - 1)] - at)
    gap_left = np.abs(edges[np.maximum(right - 1, 0)] - at)
    return np.minimum(gap_left, gap_right) <= 1 + 1e-6
