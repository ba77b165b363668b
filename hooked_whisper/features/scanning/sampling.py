"""Uniform samples from every range of every feature's activations, before anybody knows the ranges.

Two sources. :class:`RowSample` keeps whole positions, the same for all features: it covers ranges that are common.
:class:`TailSample` keeps positions of every feature in every quarter of an octave of positive values, as long as the
rows do not cover that cell: it covers the rare, large values. Both take the positions with the smallest priorities, so
that what falls into a range, up to a known priority, is a uniform sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.cells import Cells
from hooked_whisper.features.scanning.priority import NEVER
from hooked_whisper.features.scanning.state import Accumulator, Stretch


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

    A cell is closed for good, with all below it, where the rows hold as many of its positions. Negative values have no
    cells: give both signs as features where they matter.
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
        # edges of the positive cells: powers of two and quarters between, the same in float32
        self._edges = cells.edges[cells.per_sign + 1 :].float().to(device)  # [cell + 1]

    def close(self, crowded: Bool[Tensor, "feature cell"]) -> None:
        """From now on leave these cells, and all below them, to the rows."""
        n_cells = crowded.shape[1]
        last = n_cells - 1 - crowded.flip(1).to(torch.int8).argmax(1)  # argmax is the first of equals
        self.closed = torch.maximum(self.closed, torch.where(crowded.any(1), last, -1))

    def add(
        self,
        x: Float[Tensor, "position feature"],
        priority: Int[Tensor, "position"],
        recordings: Int[Tensor, "position"],
        positions: Int[Tensor, "position"],
    ) -> None:
        at = _where(x >= self._edges[self.closed + 1])
        rows, columns = at // x.shape[1], at % x.shape[1]
        values = x.reshape(-1)[at]
        slots = columns * self.cells.per_sign + self.cells.positive(values) - 1
        taken = priority[rows] < self.threshold[slots]
        rows = rows[taken]
        self._insert(slots[taken], priority[rows], recordings[rows], positions[rows], values[taken])

    def _insert(
        self,
        slots: Int[Tensor, "n"],
        priority: Int[Tensor, "n"],
        recordings: Int[Tensor, "n"],
        positions: Int[Tensor, "n"],
        values: Float[Tensor, "n"],
    ) -> None:
        if not len(slots):
            return
        kept = self.priority.shape[1]
        order = priority.argsort(stable=True)
        order = order[slots[order].argsort(stable=True)]  # by slot, then by priority
        groups, sizes = slots[order].unique_consecutive(return_counts=True)
        rank = torch.arange(len(slots), device=slots.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        group = torch.arange(len(groups), device=slots.device).repeat_interleave(sizes)
        first = rank < kept
        at, order = (group[first], rank[first]), order[first]

        def joined(old: Tensor, new: Tensor, empty: float | int) -> Tensor:
            table = torch.full((len(groups), kept), empty, dtype=old.dtype, device=old.device)
            table[at] = new[order].to(old.dtype)
            return torch.cat([old[groups], table], dim=1)

        by_priority = joined(self.priority, priority, NEVER)
        best = by_priority.sort(dim=1, stable=True).indices[:, :kept]
        self.recordings[groups] = joined(self.recordings, recordings, -1).gather(1, best)
        self.positions[groups] = joined(self.positions, positions, -1).gather(1, best)
        self.values[groups] = joined(self.values, values, 0.0).gather(1, best)
        self.priority[groups] = by_priority.gather(1, best)
        self.threshold[groups] = self.priority[groups, -1]


class Sampler(Accumulator):
    """Both sources, kept in step."""

    def __init__(
        self, n_features: int, rows: int, per_cell: int, cells: Cells, device: torch.device | str = "cpu"
    ) -> None:
        self.rows = RowSample(n_features, rows, device)
        self.tail = TailSample(n_features, per_cell, cells, device)
        self.overflowed = torch.tensor(False)

    def state(self) -> dict[str, Tensor]:
        parts = {f"{part}.{key}": t for part in ("rows", "tail") for key, t in getattr(self, part).state().items()}
        return parts | {"overflowed": self.overflowed}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part in ("rows", "tail"):
            own = {key.removeprefix(f"{part}."): t for key, t in state.items() if key.startswith(f"{part}.")}
            getattr(self, part).load(own)
        self.overflowed = state["overflowed"].clone()

    def add(self, stretch: Stretch) -> None:
        rows, tail = self.rows, self.tail
        if not self.overflowed:
            self._fill(stretch)
            return
        rows.add(stretch)
        at = torch.arange(len(stretch.x), device=stretch.x.device, dtype=torch.int32)
        tail.add(stretch.x, stretch.priority, torch.full_like(at, stretch.recording), at + stretch.first)
        tail.close((tail.threshold <= rows.reach).view(tail.n_features, -1))

    def _fill(self, stretch: Stretch) -> None:
        """As long as the rows hold every position there is nothing for the tail to do. When they overflow, what they
        held and what came is sorted into the cells that they do not cover."""
        rows, tail = self.rows, self.tail
        held = rows.priority != NEVER
        n_held = int(held.sum())
        if n_held + len(stretch.x) <= len(rows.priority):
            rows.add(stretch)
            return
        self.overflowed = torch.tensor(True)
        before = [part[held] for part in (rows.values, rows.priority, rows.recordings, rows.positions)]
        rows.add(stretch)
        count = torch.zeros(tail.n_features, tail.cells.per_sign + 1, dtype=torch.int32, device=rows.values.device)
        index = tail.cells.positive(rows.values).T.long()
        count.scatter_add_(1, index, torch.ones((), dtype=torch.int32, device=index.device).expand_as(index))
        tail.close(count[:, 1:] >= tail.priority.shape[1])
        tail.add(*before)
        at = torch.arange(len(stretch.x), device=stretch.x.device, dtype=torch.int32)
        tail.add(stretch.x, stretch.priority, torch.full_like(at, stretch.recording), at + stretch.first)

    def draw(
        self,
        low: Float[Tensor, "feature"],
        high: Float[Tensor, "feature"],
        n: int,
        one_per_recording: bool = True,
    ) -> Drawn:
        """See :func:`draw`."""
        return draw(self.rows, self.tail, low, high, n, one_per_recording)


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


def _where(mask: Bool[Tensor, "row column"]) -> Int[Tensor, "n"]:
    """Flat indices of the true entries. numpy finds few among many in half of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _first(mask: Tensor, n: int) -> Int[Tensor, "feature n"]:
    """Columns of the first ``n`` true entries of each row, then -1."""
    rank = mask.cumsum(1) - 1
    rows, columns = (mask & (rank < n)).nonzero(as_tuple=True)
    found = torch.full((len(mask), n), -1, dtype=torch.int64, device=mask.device)
    found[rows, rank[rows, columns]] = columns
    return found
