"""A sample of every feature's rare, large values, collected before the activation ranges are known."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan.priority import NEVER
from hooked_whisper.features.scan.state import Accumulator, smallest

CROWDED = 512  # positions of a feature in one bin; above this number the tail skips most of them
EARLY = 1 << 58  # positions with a priority below this, one in 32, are never skipped: 16 or more of a crowded bin
_BUFFER = 200_000  # positions buffered before they are inserted


class TailSample(Accumulator):
    """The positions with the smallest priorities in each bin, ``[feature, bin, per_bin]``.

    A feature's *level* is its highest crowded bin, one with ``crowded`` positions or more. In bins up to the level the
    tail is complete only for priorities below :data:`EARLY`; above the level it is complete. During a scan, positions
    that are not early are skipped up to the current level. Counts only grow, and a part's counts never exceed those of
    the whole. Whatever was skipped, in any order and by any process, is therefore at or below the final level, and
    ``draw``, which reads only what is complete at that level, gives the same sample in every case.

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
        self.level = torch.full((n_features,), -1, dtype=torch.int64, device=device)  # does not change the result
        self._buffer: list[tuple[Tensor, ...]] = []
        self.threshold = torch.full((shape[0],), NEVER, dtype=torch.int64, device=device)
        self.priority = torch.full(shape, NEVER, dtype=torch.int64, device=device)
        self.recordings = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.positions = torch.full(shape, -1, dtype=torch.int32, device=device)
        self.values = torch.zeros(shape, device=device)
        # edges of the positive bins: powers of two and quarters between, the same in float32
        self.edges = bins.edges[bins.per_sign + 1 :].float().to(device)  # [bin + 1]

    def level_of(self, counts: Int[Tensor, "feature bin"]) -> Int[Tensor, "feature"]:
        """The highest crowded bin of each feature, -1 if none is."""
        crowded = counts >= self.crowded
        last = counts.shape[1] - 1 - crowded.flip(1).to(torch.int8).argmax(1)  # argmax is the first of equals
        return torch.where(crowded.any(1), last, -1)

    def merge(self, other: TailSample) -> None:
        self.flush()
        other.flush()
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
        sampled = x >= self.edges[self.level + 1]
        early = (priority < EARLY).nonzero()[:, 0]
        sampled[early] = x[early] >= self.edges[0]
        flat = _true_indices(sampled)
        rows = flat // x.shape[1]
        values = x.reshape(-1).index_select(0, flat)
        slots = (flat - rows * x.shape[1]) * self.bins.per_sign + self.bins.positive(values) - 1
        row_priority = priority.index_select(0, rows)
        taken = _true_indices(row_priority < self.threshold.index_select(0, slots))
        rows = rows.index_select(0, taken)
        of_values = (table.index_select(0, taken) for table in (slots, row_priority, values))
        of_rows = (table.index_select(0, rows) for table in (recordings, positions))
        self._buffer.append((*of_values, *of_rows))
        if sum(len(tables[0]) for tables in self._buffer) > _BUFFER:
            self.flush()

    def state(self) -> dict[str, Tensor]:
        self.flush()
        return super().state()

    def flush(self) -> None:
        """Insert the buffered positions. Inserting many takes little more time than inserting a few."""
        if self._buffer:
            slots, priority, values, recordings, positions = (torch.cat(p) for p in zip(*self._buffer, strict=True))
            self._buffer.clear()
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
        candidate = _true_indices(rank < per_bin)
        order, group, rank = (table.index_select(0, candidate) for table in (order, group, rank))

        old = self.priority.index_select(0, groups)
        new = torch.full_like(old, NEVER)
        candidate_priority = priority.index_select(0, order)
        new.view(-1)[group * per_bin + rank] = candidate_priority
        last = _kth_smallest(torch.cat([old, new], dim=1), per_bin)
        stays = _true_indices(candidate_priority <= last.index_select(0, group))
        order, group = order.index_select(0, stays), group.index_select(0, stays)
        # each new position takes the slot of a dropped one, or an empty slot; both are in the order of the groups
        free = (old > last[:, None]) | (old == NEVER)
        free &= free.cumsum(1, dtype=torch.int32) <= group.bincount(minlength=len(groups))[:, None]
        slot = groups.index_select(0, group) * per_bin + _true_indices(free) % per_bin
        for table, new_values in (
            (self.priority, priority),
            (self.values, values),
            (self.recordings, recordings),
            (self.positions, positions),
        ):
            table.view(-1)[slot] = new_values.index_select(0, order)
        self.threshold[groups] = last


def _true_indices(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, "n"]:
    """Flat indices of the true entries. For few entries numpy takes half of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]


def _kth_smallest(x: Int[Tensor, "group n"], k: int) -> Int[Tensor, "group"]:
    """The k-th smallest of each row. numpy takes half of torch's time."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.partition(x.numpy(), k - 1, axis=1)[:, k - 1].copy())
    return x.kthvalue(k, dim=1).values
