"""Uniform samples from every activation range of every feature, collected before the ranges are known.

There are two sources. :class:`RowSample` keeps whole positions, the same for all features, and covers common values.
:class:`TailSample` keeps positions per feature and quarter octave of positive values, and covers rare, large values.
Both keep the positions with the smallest priorities: those of a range, up to a known priority, are a uniform sample.

Looking at every value would cost more than the encoder. The tail therefore skips most positions where a feature's
values are common. The result must not depend on when it began to skip: see :class:`TailSample`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan.priority import NEVER
from hooked_whisper.features.scan.state import Accumulator, WindowFeatures, smallest

CROWDED = 512  # positions of a feature in one bin; above this number the tail skips most of them
_WAITING = 200_000  # positions buffered before they are inserted into the tail
EARLY = 1 << 58  # positions with a priority below this, one in 32, are never skipped: 16 or more of a crowded bin


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
        """All positions with a priority up to this one are in the sample (``NEVER`` while all positions are)."""
        return self.priority.max()

    def add(self, window: WindowFeatures) -> None:
        rows = (window.priority < self.reach).nonzero()[:, 0]
        if not len(rows):
            return
        n = len(self.priority)
        joined = torch.cat([self.priority, window.priority[rows]])
        stays = torch.zeros(len(joined), dtype=torch.bool, device=joined.device)
        stays[joined.sort(stable=True).indices[:n]] = True
        slots, taken = (~stays[:n]).nonzero()[:, 0], rows[stays[n:]]
        self.priority[slots] = window.priority[taken]
        self.recordings[slots] = window.recording
        self.positions[slots] = (taken + window.first).int()
        self.values[slots] = window.x[taken]

    def arrange(self) -> None:
        """Sort by priority."""
        if (self.priority[1:] < self.priority[:-1]).any():
            order = self.priority.argsort(stable=True)
            for name in self.saved:
                setattr(self, name, getattr(self, name)[order])

    def merge(self, other: RowSample) -> None:
        best = smallest(self.priority, other.priority, len(self.priority))
        for name in self.saved:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)])[best])


class TailSample(Accumulator):
    """The positions with the smallest priorities in each bin, ``[feature, bin, per_bin]``.

    A feature's *level* is its highest crowded bin, one with ``crowded`` positions or more. In bins up to the level the
    tail is complete only for priorities below :data:`EARLY`; above the level it is complete. During a scan, positions
    that are not early are skipped up to the current level. Counts only grow, and a part's counts never exceed those of
    the whole. Whatever was skipped, in any order and by any process, is therefore at or below the final level, and
    :func:`draw`, which reads only what is complete at that level, gives the same sample in every case.

    Negative values have no bins: use :class:`~hooked_whisper.features.BothSigns` where they matter.
    """

    saved = ("threshold", "priority", "recordings", "positions", "values")

    def __init__(
        self,
        n_features: int,
        per_bin: int,
        bins: HistogramBins,
        device: torch.device | str = "cpu",
        crowded: int = CROWDED,
    ) -> None:
        shape = (n_features * bins.per_sign, per_bin)
        self.bins, self.n_features, self.crowded = bins, n_features, crowded
        self.level = torch.full(
            (n_features,), -1, dtype=torch.int64, device=device
        )  # current; does not change the result
        self._waiting: list[tuple[Tensor, ...]] = []
        self.threshold = torch.full((shape[0],), NEVER, dtype=torch.int64, device=device)
        self.priority = torch.full(shape, NEVER, dtype=torch.int64, device=device)
        self.recordings = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.positions = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.values = torch.zeros(shape, device=device)
        # edges of the positive bins: powers of two and quarters between, the same in float32
        self._edges = bins.edges[bins.per_sign + 1 :].float().to(device)  # [bin + 1]

    def level_of(self, counts: Int[Tensor, "feature bin"]) -> Int[Tensor, "feature"]:
        """The highest crowded bin of each feature, -1 if none is."""
        crowded = counts >= self.crowded
        last = counts.shape[1] - 1 - crowded.flip(1).to(torch.int8).argmax(1)  # argmax is the first of equals
        return torch.where(crowded.any(1), last, -1)

    def merge(self, other: TailSample) -> None:
        self.settle()
        other.settle()
        best = smallest(self.priority, other.priority, self.priority.shape[1])
        for name in ("priority", "recordings", "positions", "values"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)], dim=1).gather(1, best))
        self.threshold = self.priority[:, -1].clone()

    def add(
        self,
        x: Float[Tensor, "position feature"],
        priority: Int[Tensor, "position"],
        recordings: Int[Tensor, "position"],
        positions: Int[Tensor, "position"],
    ) -> None:
        wanted = x >= self._edges[self.level + 1]
        early = (priority < EARLY).nonzero()[:, 0]
        wanted[early] = x[early] >= self._edges[0]
        flat = _where(wanted)
        rows = flat // x.shape[1]
        values = x.reshape(-1).index_select(0, flat)
        slots = (flat - rows * x.shape[1]) * self.bins.per_sign + self.bins.positive(values) - 1
        when = priority.index_select(0, rows)
        taken = _where(when < self.threshold.index_select(0, slots))
        rows = rows.index_select(0, taken)
        of_values = (table.index_select(0, taken) for table in (slots, when, values))
        of_rows = (table.index_select(0, rows) for table in (recordings, positions))
        self._waiting.append((*of_values, *of_rows))
        if sum(len(tables[0]) for tables in self._waiting) > _WAITING:
            self.settle()

    def state(self) -> dict[str, Tensor]:
        self.settle()
        return super().state()

    def settle(self) -> None:
        """Insert the buffered positions; inserting many costs little more than inserting a few."""
        if self._waiting:
            slots, priority, values, recordings, positions = (torch.cat(p) for p in zip(*self._waiting, strict=True))
            self._waiting.clear()
            if len(slots):
                self._insert(slots, priority, values, recordings, positions)

    def _insert(
        self,
        slots: Int[Tensor, "n"],
        priority: Int[Tensor, "n"],
        values: Float[Tensor, "n"],
        recordings: Int[Tensor, "n"],
        positions: Int[Tensor, "n"],
    ) -> None:
        per_bin = self.priority.shape[1]
        order = priority.argsort(stable=True)
        order = order.index_select(0, slots.index_select(0, order).argsort(stable=True))  # by slot, then by priority
        groups, sizes = slots.index_select(0, order).unique_consecutive(return_counts=True)
        group = torch.arange(len(groups), device=slots.device).repeat_interleave(sizes)
        rank = torch.arange(len(slots), device=slots.device) - (sizes.cumsum(0) - sizes).index_select(0, group)
        candidate = _where(rank < per_bin)
        order, group, rank = (table.index_select(0, candidate) for table in (order, group, rank))

        old = self.priority.index_select(0, groups)
        new = torch.full_like(old, NEVER)
        when = priority.index_select(0, order)
        new.view(-1)[group * per_bin + rank] = when
        last = _kth_smallest(torch.cat([old, new], dim=1), per_bin)
        stays = _where(when <= last.index_select(0, group))
        order, group = order.index_select(0, stays), group.index_select(0, stays)
        # each new position takes the slot of a dropped one, or an empty slot; both are in the order of the groups
        free = (old > last[:, None]) | (old == NEVER)
        free &= free.cumsum(1, dtype=torch.int32) <= group.bincount(minlength=len(groups))[:, None]
        slot = groups.index_select(0, group) * per_bin + _where(free) % per_bin
        for table, new_values in (
            (self.priority, priority),
            (self.values, values),
            (self.recordings, recordings),
            (self.positions, positions),
        ):
            table.view(-1)[slot] = new_values.index_select(0, order)
        self.threshold[groups] = last


class Sampler(Accumulator):
    """Both sources: rows, and the tail once there are more positions than rows."""

    def __init__(
        self,
        n_features: int,
        rows: int,
        per_bin: int,
        bins: HistogramBins,
        device: torch.device | str = "cpu",
        crowded: int = CROWDED,
    ) -> None:
        self.rows = RowSample(n_features, rows, device)
        self.tail = TailSample(n_features, per_bin, bins, device, crowded)
        self.overflowed = torch.tensor(False)

    def state(self) -> dict[str, Tensor]:
        parts = {f"{part}.{key}": t for part in ("rows", "tail") for key, t in getattr(self, part).state().items()}
        return parts | {"overflowed": self.overflowed}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part in ("rows", "tail"):
            tensors = {key.removeprefix(f"{part}."): t for key, t in state.items() if key.startswith(f"{part}.")}
            getattr(self, part).load(tensors)
        self.overflowed = state["overflowed"].clone()

    def add(self, window: WindowFeatures) -> None:
        """Add one window. The tail is not needed while the rows hold every position."""
        if not self.overflowed and self._held + len(window.x) > len(self.rows.priority):
            self._overflow()
        self.rows.add(window)
        if self.overflowed:
            rows = torch.arange(len(window.x), device=window.x.device, dtype=torch.int32)
            recordings = torch.full_like(rows, window.recording)
            self.tail.add(window.x, window.priority, recordings, rows + window.first)

    def merge(self, other: Sampler) -> None:
        """Add what ``other`` saw of other recordings. This changes ``other``: do not use it afterwards."""
        if self.overflowed or other.overflowed or self._held + other._held > len(self.rows.priority):
            for sampler in (self, other):
                if not sampler.overflowed:
                    sampler._overflow()
            self.tail.merge(other.tail)
        self.rows.merge(other.rows)

    @property
    def _held(self) -> int:
        return int((self.rows.priority != NEVER).sum())

    def _overflow(self) -> None:
        """Copy the rows, which hold every position so far, into the tail."""
        rows = self.rows
        held = rows.priority != NEVER
        self.tail.add(rows.values[held], rows.priority[held], rows.recordings[held], rows.positions[held])
        self.overflowed = torch.tensor(True)

    def look(self, counts: Int[Tensor, "feature bin"]) -> None:
        """Update the levels from the counts so far, so that the tail skips more."""
        self.tail.level = self.tail.level_of(counts)

    def draw(
        self,
        counts: Int[Tensor, "feature bin"],
        edges: Float[Tensor, "feature edge"],
        n: int,
        one_per_recording: bool = True,
    ) -> Drawn:
        """See :func:`draw`. ``counts``: positions in each of the tail's bins over the whole corpus."""
        return draw(self.rows, self.tail, self.tail.level_of(counts), edges, n, one_per_recording)


class Drawn(NamedTuple):
    """A sample of positions for every range of every feature; empty slots have recording -1."""

    values: Float[Tensor, "feature range n"]
    recordings: Int[Tensor, "feature range n"]
    positions: Int[Tensor, "feature range n"]


def draw(
    rows: RowSample,
    tail: TailSample,
    level: Int[Tensor, "feature"],
    edges: Float[Tensor, "feature edge"],
    n: int,
    one_per_recording: bool = True,
) -> Drawn:
    """Draw at most ``n`` positions uniformly from each range of each feature.

    Args:
        level: of each feature in the whole corpus, see :class:`TailSample`.
        edges: of the ranges, float64, ascending and positive; edges of the tail's bins or of finer ones. NaN for a
            feature without ranges.
        one_per_recording: use only a recording's position with the smallest priority.

    Returns:
        fewer than ``n`` positions for a range that has fewer, or that is rare but too common to be kept whole.
    """
    tail.settle()
    rows.arrange()
    edges = edges.masked_fill(edges.isnan(), torch.inf)
    wide = n if not one_per_recording else 4 * n  # some are dropped again
    from_rows = _rows_of_each(rows, edges.float(), wide)  # edges of bins are float32 numbers
    drawn = [
        _draw_one(rows, tail, level, edges[:, i], edges[:, i + 1], from_rows[:, i], n, one_per_recording)
        for i in range(edges.shape[1] - 1)
    ]
    return Drawn(*(torch.stack(part, 1) for part in zip(*drawn, strict=True)))


def _rows_of_each(rows: RowSample, edges: Float[Tensor, "feature edge"], n: int) -> Int[Tensor, "feature range {n}"]:
    """Indices of the first ``n`` rows in each range; -1 where there are fewer."""
    held = int((rows.priority != NEVER).sum())
    if not held:
        return torch.full((len(edges), edges.shape[1] - 1, n), -1, device=edges.device)
    part = torch.searchsorted(edges, rows.values[:held].T.contiguous(), right=True).short()  # 0 is below all ranges
    order = _stable_order(part)
    whose = torch.arange(1, edges.shape[1] + 1, dtype=part.dtype, device=edges.device).expand(len(edges), -1)
    starts = torch.searchsorted(part.gather(1, order), whose.contiguous())[:, :, None]
    rank = starts[:, :-1] + torch.arange(n, device=edges.device)
    index = order.gather(1, rank.clamp_max(held - 1).flatten(1)).view(rank.shape)
    return index.masked_fill(rank >= starts[:, 1:], -1)


def _draw_one(
    rows: RowSample,
    tail: TailSample,
    level: Int[Tensor, "feature"],
    low: Float[Tensor, "feature"],
    high: Float[Tensor, "feature"],
    from_rows: Int[Tensor, "feature wide"],
    n: int,
    one_per_recording: bool,
) -> tuple[Float[Tensor, "feature n"], Int[Tensor, "feature n"], Int[Tensor, "feature n"]]:
    """Values, recordings and positions from ``[low, high)``."""
    n_features, n_bins, per_bin = tail.n_features, tail.bins.per_sign, tail.priority.shape[1]
    features = torch.arange(n_features, device=low.device)[:, None]
    edges = tail._edges.to(low)
    touched = (edges[1:] > low[:, None]) & (edges[:-1] < high[:, None])

    # all positions of the range up to this priority are known: rows up to their reach, the tail where it is complete
    above = torch.arange(n_bins, device=low.device) > level[:, None]  # [feature, bin]
    threshold = tail.threshold.view(n_features, n_bins)
    complete = torch.maximum(torch.where(above, threshold, threshold.clamp_max(EARLY)), rows.reach)
    limit = complete.masked_fill(~touched, NEVER).amin(1, keepdim=True)

    # only the bins that overlap the range, which are adjacent
    first, width = touched.to(torch.int8).argmax(1, keepdim=True), max(1, int(touched.sum(1).max()))
    bins = first + torch.arange(width, device=low.device)
    inside = (bins < n_bins).repeat_interleave(per_bin, dim=1)
    slots = (features * n_bins + bins.clamp_max(n_bins - 1)).view(-1)

    def of_tail(table: Tensor) -> Float[Tensor, "feature m"] | Int[Tensor, "feature m"]:
        return table.index_select(0, slots).view(n_features, width * per_bin)

    values = of_tail(tail.values)
    inside &= (values >= low.float()[:, None]) & (values < high.float()[:, None])
    row = from_rows.clamp_min(0)
    priority = torch.cat(
        [rows.priority[row].masked_fill(from_rows < 0, NEVER), of_tail(tail.priority).masked_fill(~inside, NEVER)], 1
    )
    priority = priority.masked_fill(priority > limit, NEVER)
    wide = min(2 * row.shape[1], priority.shape[1])  # a position may be in both sources
    priority, best = priority.topk(wide, largest=False)
    keep = priority != NEVER
    keep[:, 1:] &= priority[:, 1:] != priority[:, :-1]
    recordings = torch.cat([rows.recordings[row], of_tail(tail.recordings)], 1).gather(1, best)
    if one_per_recording:
        same = recordings[:, :, None] == recordings[:, None, :]
        earlier = torch.tril(same, diagonal=-1) & keep[:, None, :]
        keep &= ~earlier.any(2)
    column = _first(keep, n)
    empty, column = column < 0, column.clamp_min(0)
    best = best.gather(1, column)
    return (
        torch.cat([rows.values[row, features], values], 1).gather(1, best).masked_fill(empty, torch.nan),
        recordings.gather(1, column).masked_fill(empty, -1),
        torch.cat([rows.positions[row], of_tail(tail.positions)], 1).gather(1, best).masked_fill(empty, -1),
    )


def _where(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, "n"]:
    """Flat indices of the true entries. For few entries numpy takes half of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _kth_smallest(x: Int[Tensor, "group n"], k: int) -> Int[Tensor, "group"]:
    """The k-th smallest of each row. numpy takes half of torch's time."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.partition(x.numpy(), k - 1, axis=1)[:, k - 1].copy())
    return x.kthvalue(k, dim=1).values


def _stable_order(x: Int[Tensor, "row n"]) -> Int[Tensor, "row n"]:
    """Stable sort order of each row. For 16-bit integers numpy takes a quarter of torch's time."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy().argsort(axis=1, kind="stable"))
    return x.argsort(dim=1, stable=True)


def _first(mask: Tensor, n: int) -> Int[Tensor, "feature n"]:
    """Columns of the first ``n`` true entries of each row, then -1."""
    rank = mask.cumsum(1, dtype=torch.int32) - 1
    rows, columns = (mask & (rank < n)).nonzero(as_tuple=True)
    first = torch.full((len(mask), n), -1, dtype=torch.int64, device=mask.device)
    first[rows, rank[rows, columns].long()] = columns
    return first
