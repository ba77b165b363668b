"""Uniform samples from every activation range of every feature, collected before the ranges are known.

A sample has two sources. :class:`RowSample` keeps whole positions, the same for all features, and covers common values.
:class:`TailSample` keeps positions per feature and quarter octave of positive values, and covers rare, large values.
Both keep the positions with the smallest priorities. Up to a known priority, they have all positions of a range, which
are a uniform sample of it.

Inserting every value would take longer than the encoder. The tail therefore skips most positions at which a feature has
a common value. :class:`TailSample` explains why the result does not depend on when it began to skip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan.priority import NEVER
from hooked_whisper.features.scan.state import Accumulator, WindowFeatures, smallest
from hooked_whisper.features.scan.tail_sample import CROWDED, EARLY, TailSample


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

    def sort(self) -> None:
        """Sort by priority."""
        if (self.priority[1:] < self.priority[:-1]).any():
            order = self.priority.argsort(stable=True)
            for name in self.saved:
                setattr(self, name, getattr(self, name)[order])

    def merge(self, other: RowSample) -> None:
        best = smallest(self.priority, other.priority, len(self.priority))
        for name in self.saved:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)])[best])


class Sampler(Accumulator):
    """Samples from both sources; the tail is filled once there are more positions than rows."""

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
        if not self.overflowed and self._n_filled + len(window.x) > len(self.rows.priority):
            self._overflow()
        self.rows.add(window)
        if self.overflowed:
            rows = torch.arange(len(window.x), device=window.x.device, dtype=torch.int32)
            recordings = torch.full_like(rows, window.recording)
            self.tail.add(window.x, window.priority, recordings, rows + window.first)

    def merge(self, other: Sampler) -> None:
        """Add the samples of ``other``, which saw other recordings. It is changed: do not use it afterwards."""
        if self.overflowed or other.overflowed or self._n_filled + other._n_filled > len(self.rows.priority):
            for sampler in (self, other):
                if not sampler.overflowed:
                    sampler._overflow()
            self.tail.merge(other.tail)
        self.rows.merge(other.rows)

    @property
    def _n_filled(self) -> int:
        return int((self.rows.priority != NEVER).sum())

    def _overflow(self) -> None:
        """Copy the rows, which hold every position so far, into the tail."""
        rows = self.rows
        filled = rows.priority != NEVER
        self.tail.add(rows.values[filled], rows.priority[filled], rows.recordings[filled], rows.positions[filled])
        self.overflowed = torch.tensor(True)

    def update_levels(self, counts: Int[Tensor, "feature bin"]) -> None:
        """Update the levels from the counts so far, so that the tail skips more positions."""
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
        up to ``n`` positions per range; fewer if the range has fewer, or if the samples cover too few of them.
    """
    tail.flush()
    rows.sort()
    edges = edges.masked_fill(edges.isnan(), torch.inf)
    n_rows = n if not one_per_recording else 4 * n  # several may be of one recording
    from_rows = _rows_of_each(rows, edges.float(), n_rows)  # edges of bins are float32 numbers
    drawn = [
        _draw_range(rows, tail, level, edges[:, i], edges[:, i + 1], from_rows[:, i], n, one_per_recording)
        for i in range(edges.shape[1] - 1)
    ]
    return Drawn(*(torch.stack(part, 1) for part in zip(*drawn, strict=True)))


def _rows_of_each(rows: RowSample, edges: Float[Tensor, "feature edge"], n: int) -> Int[Tensor, "feature range {n}"]:
    """Indices of the first ``n`` rows in each range; -1 where there are fewer."""
    n_filled = int((rows.priority != NEVER).sum())
    if not n_filled:
        return torch.full((len(edges), edges.shape[1] - 1, n), -1, device=edges.device)
    part = torch.searchsorted(edges, rows.values[:n_filled].T.contiguous(), right=True).short()  # 0 is below all ranges
    order = _stable_order(part)
    range_index = torch.arange(1, edges.shape[1] + 1, dtype=part.dtype, device=edges.device).expand(len(edges), -1)
    starts = torch.searchsorted(part.gather(1, order), range_index.contiguous())[:, :, None]
    rank = starts[:, :-1] + torch.arange(n, device=edges.device)
    index = order.gather(1, rank.clamp_max(n_filled - 1).flatten(1)).view(rank.shape)
    return index.masked_fill(rank >= starts[:, 1:], -1)


def _draw_range(
    rows: RowSample,
    tail: TailSample,
    level: Int[Tensor, "feature"],
    low: Float[Tensor, "feature"],
    high: Float[Tensor, "feature"],
    from_rows: Int[Tensor, "feature wide"],
    n: int,
    one_per_recording: bool,
) -> tuple[Float[Tensor, "feature n"], Int[Tensor, "feature n"], Int[Tensor, "feature n"]]:
    """Sample from ``[low, high)``: values, recordings and positions."""
    n_features, n_bins, per_bin = tail.n_features, tail.bins.per_sign, tail.priority.shape[1]
    features = torch.arange(n_features, device=low.device)[:, None]
    edges = tail.edges.to(low)
    touched = (edges[1:] > low[:, None]) & (edges[:-1] < high[:, None])

    # up to this priority both samples have all positions of the range: rows up to their reach, the tail where complete
    above = torch.arange(n_bins, device=low.device) > level[:, None]  # [feature, bin]
    threshold = tail.threshold.view(n_features, n_bins)
    complete = torch.maximum(torch.where(above, threshold, threshold.clamp_max(EARLY)), rows.reach)
    limit = complete.masked_fill(~touched, NEVER).amin(1, keepdim=True)

    # the bins that overlap the range are adjacent
    first, width = touched.to(torch.int8).argmax(1, keepdim=True), max(1, int(touched.sum(1).max()))
    bins = first + torch.arange(width, device=low.device)
    inside = (bins < n_bins).repeat_interleave(per_bin, dim=1)
    slots = (features * n_bins + bins.clamp_max(n_bins - 1)).view(-1)

    def tail_entries(table: Tensor) -> Float[Tensor, "feature m"] | Int[Tensor, "feature m"]:
        return table.index_select(0, slots).view(n_features, width * per_bin)

    values = tail_entries(tail.values)
    inside &= (values >= low.float()[:, None]) & (values < high.float()[:, None])
    row = from_rows.clamp_min(0)
    priority = torch.cat(
        [rows.priority[row].masked_fill(from_rows < 0, NEVER), tail_entries(tail.priority).masked_fill(~inside, NEVER)],
        1,
    )
    priority = priority.masked_fill(priority > limit, NEVER)
    n_candidates = min(2 * row.shape[1], priority.shape[1])  # a position may be in both sources
    priority, best = priority.topk(n_candidates, largest=False)
    keep = priority != NEVER
    keep[:, 1:] &= priority[:, 1:] != priority[:, :-1]
    recordings = torch.cat([rows.recordings[row], tail_entries(tail.recordings)], 1).gather(1, best)
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
        torch.cat([rows.positions[row], tail_entries(tail.positions)], 1).gather(1, best).masked_fill(empty, -1),
    )


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
