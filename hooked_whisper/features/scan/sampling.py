"""Uniform samples from every range of every feature's activations, before anybody knows the ranges.

Two sources. :class:`RowSample` keeps whole positions, the same for all features: it covers ranges that are common.
:class:`TailSample` keeps positions of every feature in every quarter of an octave of positive values: it covers the
rare, large values. Both take the positions with the smallest priorities, so that what falls into a range, up to a known
priority, is a uniform sample.

Looking at every value would cost more than the encoder, so the tail leaves most positions out where a feature's values
are common. What it has in the end must not depend on when it began to: see :class:`TailSample`.
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
from hooked_whisper.features.scan.state import Accumulator, Stretch, smallest

CROWDED = 512  # positions of a feature in a bin from which on the tail leaves most of them out
_WAITING = 200_000  # positions that wait to be put into the tail
EARLY = 1 << 58  # priorities below this one, one in 32, are never left out: of a crowded bin 16 or more


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

    def arrange(self) -> None:
        """By priority."""
        if (self.priority[1:] < self.priority[:-1]).any():
            order = self.priority.argsort(stable=True)
            for name in self.saved:
                setattr(self, name, getattr(self, name)[order])

    def merge(self, other: RowSample) -> None:
        best = smallest(self.priority, other.priority, len(self.priority))
        for name in self.saved:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)])[best])


class TailSample(Accumulator):
    """``[feature, bin, kept]``: the positions with the smallest priorities in each bin.

    A feature's *level* is its highest crowded bin: one with ``crowded`` positions or more. In bins up to the level
    the tail is complete for priorities below :data:`EARLY` only, above it for all. While a scan runs, positions that
    are not early are left out up to the level so far. Counts only grow, and those of a part are never more than those
    of the whole, so that what was ever left out, in any order and by any process, lies up to the level of the end: who
    reads no more than is complete then (:func:`draw`) gets the same from all of them.

    Negative values have no bins: give both signs as features where they matter.
    """

    saved = ("threshold", "priority", "recordings", "positions", "values")

    def __init__(
        self,
        n_features: int,
        kept: int,
        bins: HistogramBins,
        device: torch.device | str = "cpu",
        crowded: int = CROWDED,
    ) -> None:
        shape = (n_features * bins.per_sign, kept)
        self.bins, self.n_features, self.crowded = bins, n_features, crowded
        self.level = torch.full((n_features,), -1, dtype=torch.int64, device=device)  # so far; settles nothing
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
        at = _where(wanted)
        rows = at // x.shape[1]
        values = x.reshape(-1).index_select(0, at)
        slots = (at - rows * x.shape[1]) * self.bins.per_sign + self.bins.positive(values) - 1
        when = priority.index_select(0, rows)
        taken = _where(when < self.threshold.index_select(0, slots))
        rows = rows.index_select(0, taken)
        of_values = (one.index_select(0, taken) for one in (slots, when, values))
        of_rows = (one.index_select(0, rows) for one in (recordings, positions))
        self._waiting.append((*of_values, *of_rows))
        if sum(len(one[0]) for one in self._waiting) > _WAITING:
            self.settle()

    def state(self) -> dict[str, Tensor]:
        self.settle()
        return super().state()

    def settle(self) -> None:
        """Put in what was found since the last time: many together cost little more than a few."""
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
        kept = self.priority.shape[1]
        order = priority.argsort(stable=True)
        order = order.index_select(0, slots.index_select(0, order).argsort(stable=True))  # by slot, then by priority
        groups, sizes = slots.index_select(0, order).unique_consecutive(return_counts=True)
        group = torch.arange(len(groups), device=slots.device).repeat_interleave(sizes)
        rank = torch.arange(len(slots), device=slots.device) - (sizes.cumsum(0) - sizes).index_select(0, group)
        candidate = _where(rank < kept)
        order, group, rank = (one.index_select(0, candidate) for one in (order, group, rank))

        old = self.priority.index_select(0, groups)
        new = torch.full_like(old, NEVER)
        when = priority.index_select(0, order)
        new.view(-1)[group * kept + rank] = when
        last = _kth_smallest(torch.cat([old, new], dim=1), kept)
        stays = _where(when <= last.index_select(0, group))
        order, group = order.index_select(0, stays), group.index_select(0, stays)
        # each new one into a place that an old one leaves, or that was empty; both are in the order of the groups
        free = (old > last[:, None]) | (old == NEVER)
        free &= free.cumsum(1, dtype=torch.int32) <= group.bincount(minlength=len(groups))[:, None]
        at = groups.index_select(0, group) * kept + _where(free) % kept
        for table, found in (
            (self.priority, priority),
            (self.values, values),
            (self.recordings, recordings),
            (self.positions, positions),
        ):
            table.view(-1)[at] = found.index_select(0, order)
        self.threshold[groups] = last


class Sampler(Accumulator):
    """Both sources, kept in step."""

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
            own = {key.removeprefix(f"{part}."): t for key, t in state.items() if key.startswith(f"{part}.")}
            getattr(self, part).load(own)
        self.overflowed = state["overflowed"].clone()

    def add(self, stretch: Stretch) -> None:
        """As long as the rows hold every position there is nothing for the tail to do."""
        if not self.overflowed and self._held + len(stretch.x) > len(self.rows.priority):
            self._overflow()
        self.rows.add(stretch)
        if self.overflowed:
            at = torch.arange(len(stretch.x), device=stretch.x.device, dtype=torch.int32)
            self.tail.add(stretch.x, stretch.priority, torch.full_like(at, stretch.recording), at + stretch.first)

    def merge(self, other: Sampler) -> None:
        """``other`` is of no use afterwards."""
        if self.overflowed or other.overflowed or self._held + other._held > len(self.rows.priority):
            for one in (self, other):
                if not one.overflowed:
                    one._overflow()
            self.tail.merge(other.tail)
        self.rows.merge(other.rows)

    @property
    def _held(self) -> int:
        return int((self.rows.priority != NEVER).sum())

    def _overflow(self) -> None:
        """What the rows held, which is every position so far, goes into the tail too."""
        rows = self.rows
        held = rows.priority != NEVER
        self.tail.add(rows.values[held], rows.priority[held], rows.recordings[held], rows.positions[held])
        self.overflowed = torch.tensor(True)

    def look(self, counts: Int[Tensor, "feature bin"]) -> None:
        """Of what has been seen so far; saves work from now on."""
        self.tail.level = self.tail.level_of(counts)

    def draw(
        self,
        counts: Int[Tensor, "feature bin"],
        edges: Float[Tensor, "feature edge"],
        n: int,
        one_per_recording: bool = True,
    ) -> Drawn:
        """See :func:`draw`; ``counts`` of all positions in each of the tail's bins."""
        return draw(self.rows, self.tail, self.tail.level_of(counts), edges, n, one_per_recording)


class Drawn(NamedTuple):
    """A sample of positions for every range of every feature; unfilled places have recording -1."""

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
    """At most ``n`` positions from each range of each feature, whose edges these are: uniform samples.

    level: of each feature in the whole corpus, see :class:`TailSample`.
    edges: float64, ascending, edges of the tail's bins or of finer ones; positive, or NaN for a feature without
    ranges. ``one_per_recording`` takes a recording's position with the smallest priority only. Fewer come out where the
    range has fewer, or where it is rare, but not rare enough to have been kept whole.
    """
    tail.settle()
    rows.arrange()
    edges = edges.masked_fill(edges.isnan(), torch.inf)
    wide = n if not one_per_recording else 4 * n  # some fall away again
    from_rows = _rows_of_each(rows, edges.float(), wide)  # edges of bins are float32 numbers
    drawn = [
        _draw_one(rows, tail, level, edges[:, i], edges[:, i + 1], from_rows[:, i], n, one_per_recording)
        for i in range(edges.shape[1] - 1)
    ]
    return Drawn(*(torch.stack(part, 1) for part in zip(*drawn, strict=True)))


def _rows_of_each(rows: RowSample, edges: Float[Tensor, "feature edge"], n: int) -> Int[Tensor, "feature range {n}"]:
    """Which rows are the first ``n`` in each range; -1 where there are fewer."""
    held = int((rows.priority != NEVER).sum())
    if not held:
        return torch.full((len(edges), edges.shape[1] - 1, n), -1, device=edges.device)
    part = torch.searchsorted(edges, rows.values[:held].T.contiguous(), right=True).short()  # 0 is below all ranges
    order = _stable_order(part)
    whose = torch.arange(1, edges.shape[1] + 1, dtype=part.dtype, device=edges.device).expand(len(edges), -1)
    starts = torch.searchsorted(part.gather(1, order), whose.contiguous())[:, :, None]
    at = starts[:, :-1] + torch.arange(n, device=edges.device)
    found = order.gather(1, at.clamp_max(held - 1).flatten(1)).view(at.shape)
    return found.masked_fill(at >= starts[:, 1:], -1)


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
    n_features, n_bins, kept = tail.n_features, tail.bins.per_sign, tail.priority.shape[1]
    features = torch.arange(n_features, device=low.device)[:, None]
    edges = tail._edges.to(low)
    touched = (edges[1:] > low[:, None]) & (edges[:-1] < high[:, None])

    # up to which priority everything in the range is here: rows up to their reach, the tail as far as it is complete
    above = torch.arange(n_bins, device=low.device) > level[:, None]  # [feature, bin]
    threshold = tail.threshold.view(n_features, n_bins)
    complete = torch.maximum(torch.where(above, threshold, threshold.clamp_max(EARLY)), rows.reach)
    limit = complete.masked_fill(~touched, NEVER).amin(1, keepdim=True)

    # only the bins that are touched, which lie side by side
    first, width = touched.to(torch.int8).argmax(1, keepdim=True), max(1, int(touched.sum(1).max()))
    bins = first + torch.arange(width, device=low.device)
    there = (bins < n_bins).repeat_interleave(kept, dim=1)
    slots = (features * n_bins + bins.clamp_max(n_bins - 1)).view(-1)

    def of_tail(table: Tensor) -> Float[Tensor, "feature m"] | Int[Tensor, "feature m"]:
        return table.index_select(0, slots).view(n_features, width * kept)

    values = of_tail(tail.values)
    there &= (values >= low.float()[:, None]) & (values < high.float()[:, None])
    at = from_rows.clamp_min(0)
    priority = torch.cat(
        [rows.priority[at].masked_fill(from_rows < 0, NEVER), of_tail(tail.priority).masked_fill(~there, NEVER)], 1
    )
    priority = priority.masked_fill(priority > limit, NEVER)
    wide = min(2 * at.shape[1], priority.shape[1])  # a position may be in both
    priority, best = priority.topk(wide, largest=False)
    keep = priority != NEVER
    keep[:, 1:] &= priority[:, 1:] != priority[:, :-1]
    recordings = torch.cat([rows.recordings[at], of_tail(tail.recordings)], 1).gather(1, best)
    if one_per_recording:
        same = recordings[:, :, None] == recordings[:, None, :]
        earlier = torch.tril(same, diagonal=-1) & keep[:, None, :]
        keep &= ~earlier.any(2)
    chosen = _first(keep, n)
    gone, chosen = chosen < 0, chosen.clamp_min(0)
    best = best.gather(1, chosen)
    return (
        torch.cat([rows.values[at, features], values], 1).gather(1, best).masked_fill(gone, torch.nan),
        recordings.gather(1, chosen).masked_fill(gone, -1),
        torch.cat([rows.positions[at], of_tail(tail.positions)], 1).gather(1, best).masked_fill(gone, -1),
    )


def _where(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, "n"]:
    """Flat indices of the true entries. numpy finds few among many in half of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _kth_smallest(x: Int[Tensor, "group n"], k: int) -> Int[Tensor, "group"]:
    """Of each row; numpy takes half of torch's time here too."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.partition(x.numpy(), k - 1, axis=1)[:, k - 1].copy())
    return x.kthvalue(k, dim=1).values


def _stable_order(x: Int[Tensor, "row n"]) -> Int[Tensor, "row n"]:
    """Of each row; numpy takes a quarter of torch's time for numbers of 16 bits."""
    if x.device.type == "cpu":
        return torch.from_numpy(x.numpy().argsort(axis=1, kind="stable"))
    return x.argsort(dim=1, stable=True)


def _first(mask: Tensor, n: int) -> Int[Tensor, "feature n"]:
    """Columns of the first ``n`` true entries of each row, then -1."""
    rank = mask.cumsum(1, dtype=torch.int32) - 1
    rows, columns = (mask & (rank < n)).nonzero(as_tuple=True)
    found = torch.full((len(mask), n), -1, dtype=torch.int64, device=mask.device)
    found[rows, rank[rows, columns].long()] = columns
    return found
