"""Uniform samples from every range of every feature's activations, before anybody knows the ranges.

Two sources. :class:`RowSample` keeps whole positions, the same for all features: it covers ranges that are common.
:class:`TailSample` keeps, for every feature and every quarter of an octave of positive values, the positions with the
smallest priorities, for as long as the rows do not cover that cell: it covers the rare, large values. Both take the
positions with the smallest priorities, so that what falls into a range, up to a known priority, is a uniform sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.features.cells import Cells
from hooked_whisper.features.scan.priority import NEVER
from hooked_whisper.features.scan.state import Accumulator, Stretch


class RowSample(Accumulator):
    """The ``n`` positions with the smallest priorities, with all their features."""

    saved = ("priority", "recordings", "positions", "values")

    def __init__(self, n_features: int, n: int, device: torch.device | str = "cpu") -> None:
        self.priority = torch.full((n,), NEVER, dtype=torch.int64, device=device)
        self.recordings = torch.full((n,), -1, dtype=torch.int32, device=device)
        self.positions = torch.full((n,), -1, dtype=torch.int32, device=device)
        self.values = torch.zeros((n, n_features), device=device)

    @property
    def reach(self) -> Tensor:
        """Positions with a priority up to this one are all here (int64; ``NEVER`` while all positions are)."""
        return self.priority.max()

    def add(self, stretch: Stretch) -> None:
        rows = (stretch.priority < self.reach).nonzero()[:, 0]
        if not len(rows):
            return
        n = len(self.priority)
        joined = torch.cat([self.priority, stretch.priority[rows]])
        stays = torch.zeros(len(joined), dtype=torch.bool, device=joined.device)
        stays[joined.sort(stable=True).indices[:n]] = True
        slots, taken = (~stays[:n]).nonzero()[:, 0], rows[stays[n:]]
        self.priority[slots] = stretch.priority[taken]
        self.recordings[slots] = stretch.recording
        self.positions[slots] = (taken + stretch.first).int()
        self.values[slots] = stretch.x[taken]


class TailSample(Accumulator):
    """``[feature, cell, kept]``: the positions with the smallest priorities in each cell above ``closed``.

    A cell is closed for good, with all below it, once its last priority is within the rows' reach: the rows then hold
    at least as many of its positions. Negative values have no cells: give both signs as features where they matter.
    """

    saved = ("closed", "threshold", "priority", "recordings", "positions", "values")

    def __init__(self, n_features: int, kept: int, cells: Cells, device: torch.device | str = "cpu") -> None:
        shape = (n_features * cells.per_sign, kept)
        self.cells, self.n_features = cells, n_features
        self.closed = torch.full((n_features,), -1, dtype=torch.int64, device=device)
        self.threshold = torch.full((shape[0],), NEVER, dtype=torch.int64, device=device)
        self.priority = torch.full(shape, NEVER, dtype=torch.int64, device=device)
        self.recordings = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.positions = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.values = torch.zeros(shape, device=device)
        # lower edge of each positive cell, as a float32 that rounds to itself: powers of two and quarters between
        self._edges = cells.edges[cells.per_sign + 1 :].float().to(device)  # [cell + 1]

    def add(self, stretch: Stretch, reach: Tensor) -> None:
        """``reach`` of the rows after they have taken in the same stretch."""
        cut = self._edges[self.closed + 1]
        rows, columns = (stretch.x >= cut).nonzero(as_tuple=True)
        values = stretch.x[rows, columns]
        slots = columns * self.cells.per_sign + self.cells.of(values) - (self.cells.per_sign + 1)
        taken = stretch.priority[rows] < self.threshold[slots]
        self._insert(slots[taken], rows[taken], values[taken], stretch)
        self._close(reach)

    def _insert(
        self, slots: Int[Tensor, "n"], rows: Int[Tensor, "n"], values: Float[Tensor, "n"], stretch: Stretch
    ) -> None:
        if not len(slots):
            return
        kept = self.priority.shape[1]
        order = stretch.priority[rows].argsort(stable=True)
        order = order[slots[order].argsort(stable=True)]  # by slot, then by priority
        slots, rows, values = slots[order], rows[order], values[order]
        groups, sizes = slots.unique_consecutive(return_counts=True)
        rank = torch.arange(len(slots), device=slots.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        group = torch.arange(len(groups), device=slots.device).repeat_interleave(sizes)
        first = rank < kept
        at, rows, values = (group[first], rank[first]), rows[first], values[first]

        def spread(new: Tensor, old: Tensor, empty: float | int) -> Tensor:
            table = torch.full((len(groups), kept), empty, dtype=old.dtype, device=old.device)
            table[at] = new.to(old.dtype)
            return torch.cat([old[groups], table], dim=1)

        priority = spread(stretch.priority[rows], self.priority, NEVER)
        order = priority.sort(dim=1, stable=True).indices[:, :kept]
        self.recordings[groups] = spread(torch.full_like(rows, stretch.recording), self.recordings, -1).gather(1, order)
        self.positions[groups] = spread(rows + stretch.first, self.positions, -1).gather(1, order)
        self.values[groups] = spread(values, self.values, 0.0).gather(1, order)
        self.priority[groups] = priority.gather(1, order)
        self.threshold[groups] = self.priority[groups, -1]

    def _close(self, reach: Tensor) -> None:
        if reach == NEVER:
            return
        covered = (self.threshold <= reach).view(self.n_features, -1)
        n_cells = covered.shape[1]
        last = n_cells - 1 - covered.flip(1).to(torch.int8).argmax(1)  # of no cell: n_cells - 1, corrected below
        self.closed = torch.maximum(self.closed, torch.where(covered.any(1), last, -1))


class Drawn(NamedTuple):
    """A sample of positions for every feature, ``[feature, n]``; unfilled places have recording -1."""

    values: Float[Tensor, "feature n"]
    recordings: Int[Tensor, "feature n"]
    positions: Int[Tensor, "feature n"]


def draw(
    rows: RowSample,
    tail: TailSample,
    low: Float[Tensor, "feature"],
    high: Float[Tensor, "feature"],
    n: int,
    one_per_recording: bool = True,
) -> Drawn:
    """At most ``n`` positions for each feature whose activation is in ``[low, high)``: a uniform sample.

    low, high: float64, edges of the tail's cells or of finer ones; positive. ``one_per_recording`` takes a recording's
    position with the smallest priority only. Fewer come out where the range has fewer, or where it is rare, but not
    rare enough to have been kept whole.
    """
    n_features, n_cells, reach = tail.n_features, tail.cells.per_sign, rows.reach
    wide = n if not one_per_recording else 4 * n  # some fall away again
    order = rows.priority.argsort(stable=True)
    values = rows.values[order]
    inside = (values >= low) & (values < high) & (rows.priority[order] != NEVER)[:, None]
    from_rows = _first(inside.T, wide)  # [feature, wide] index into order, or -1
    at = order[from_rows.clamp_min(0)]
    shape = (n_features, -1)
    opened = torch.arange(n_cells, device=low.device) > tail.closed[:, None]  # [feature, cell]
    in_tail = (tail.values.view(shape) >= low[:, None]) & (tail.values.view(shape) < high[:, None])
    in_tail &= opened.repeat_interleave(tail.priority.shape[1], dim=1)

    # up to which priority everything in the range is here: rows up to their reach, open cells further
    edges = tail._edges.to(low)
    touched = (edges[1:] > low[:, None]) & (edges[:-1] < high[:, None])
    complete = torch.maximum(tail.threshold.view(shape).masked_fill(~opened, 0), reach)
    limit = complete.masked_fill(~touched, NEVER).amin(1, keepdim=True)

    priority = torch.cat(
        [rows.priority[at].masked_fill(from_rows < 0, NEVER), tail.priority.view(shape).masked_fill(~in_tail, NEVER)], 1
    )
    priority, best = priority.masked_fill(priority > limit, NEVER).sort(dim=1, stable=True)
    priority, best = priority[:, : 2 * wide], best[:, : 2 * wide]  # a position may be in both

    def joined(of_rows: Tensor, of_tail: Tensor) -> Tensor:
        return torch.cat([of_rows, of_tail.view(shape)], 1).gather(1, best)

    keep = priority != NEVER
    keep[:, 1:] &= priority[:, 1:] != priority[:, :-1]
    recordings = joined(rows.recordings[at], tail.recordings)
    if one_per_recording:
        same = recordings[:, :, None] == recordings[:, None, :]
        earlier = torch.tril(same, diagonal=-1) & keep[:, None, :]
        keep &= ~earlier.any(2)
    chosen = _first(keep, n)
    gone, chosen = chosen < 0, chosen.clamp_min(0)
    features = torch.arange(n_features, device=low.device)[:, None]
    return Drawn(
        joined(rows.values[at, features], tail.values).gather(1, chosen).masked_fill(gone, torch.nan),
        recordings.gather(1, chosen).masked_fill(gone, -1),
        joined(rows.positions[at], tail.positions).gather(1, chosen).masked_fill(gone, -1),
    )


def _first(mask: Tensor, n: int) -> Int[Tensor, "feature n"]:
    """Columns of the first ``n`` true entries of each row, then -1."""
    rank = mask.cumsum(1) - 1
    rows, columns = (mask & (rank < n)).nonzero(as_tuple=True)
    found = torch.full((len(mask), n), -1, dtype=torch.int64, device=mask.device)
    found[rows, rank[rows, columns]] = columns
    return found
