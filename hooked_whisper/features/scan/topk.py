"""The k largest activations of every feature over a corpus, exact and streaming, with the activations around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.scan.state import Accumulator, WindowFeatures

_LOW = -torch.inf
_BLOCK = 32


class RankedActivations(NamedTuple):
    """Examples of each feature, largest first; of equal values the one earlier in the corpus first.

    Empty slots have value NaN and recording -1.
    """

    values: Float[Tensor, "feature k"]
    recordings: Int[Tensor, "feature k"]
    positions: Int[Tensor, "feature k"]
    traces: Float[Tensor, "feature k around"]


class TopActivations(Accumulator):
    """The ``k`` largest activations of each feature, in any order; :meth:`ranked` sorts them.

    Args:
        context: positions kept on either side of each example.
        one_per_recording: keep only a recording's largest activation of each feature.
        separation: an example must be the largest within this many positions on either side (the first of equals).
    """

    saved = ("values", "recordings", "positions", "traces")

    def __init__(
        self,
        n_features: int,
        k: int,
        context: int = 0,
        one_per_recording: bool = False,
        separation: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.context, self.one_per_recording, self.separation = context, one_per_recording, separation
        self.values = torch.full((n_features, k), _LOW, device=device)
        self.recordings = torch.full((n_features, k), -1, dtype=torch.int32, device=device)
        self.positions = torch.full((n_features, k), -1, dtype=torch.int32, device=device)
        self.traces = torch.full((n_features, k, 2 * context + 1), torch.nan, device=device)

    def add(self, window: WindowFeatures, largest: Float[Tensor, "feature"]) -> None:
        """Add one window, given the maximum of each feature over it."""
        # most features of most windows have no value above the smallest example
        columns = (largest > self.values.amin(1)).nonzero()[:, 0]
        if not len(columns):
            return
        if self.one_per_recording:
            new, rows = (x[columns, None] for x in first_largest(window.x))
        else:
            new, rows = self._candidates(window.x[:, columns])
        old = self.values[columns]
        if self.one_per_recording:
            old, new = _larger_of_recording(old, new, self.recordings[columns] == window.recording)
        k = old.shape[1]
        joined = torch.cat([old, new], dim=1)
        best = self._order(joined, columns)[:, :k]
        stays = torch.zeros_like(joined, dtype=torch.bool).scatter_(1, best, True) & torch.isfinite(joined)
        # write only what changes: each new example takes the slot of a dropped one, or an empty slot
        taken = stays[:, k:].nonzero(as_tuple=True)
        free = ~stays[:, :k]
        free &= free.cumsum(1) <= stays[:, k:].sum(1, keepdim=True)
        row, slot = free.nonzero(as_tuple=True)
        self.values[columns] = old  # slots vacated by a larger value of the same recording are empty now
        feature = columns[row]
        self.values[feature, slot] = new[taken]
        self.recordings[feature, slot] = window.recording
        self.positions[feature, slot] = (rows[taken] + window.first).int()
        self.traces[feature, slot] = self._around(window.x, rows[taken], feature)

    def _order(self, joined: Float[Tensor, "c n"], columns: Int[Tensor, "c"]) -> Int[Tensor, "c n"]:
        """Order by value, largest first; equal values by place in the corpus, where new examples follow old ones."""
        old = self._corpus_order(columns)
        later = torch.arange(old.shape[1], joined.shape[1], device=old.device).expand(len(old), -1)
        by_corpus = torch.cat([old, later], dim=1)
        return by_corpus.gather(1, joined.gather(1, by_corpus).sort(dim=1, descending=True, stable=True).indices)

    def _corpus_order(self, columns: Int[Tensor, "c"]) -> Int[Tensor, "c k"]:
        place = (self.recordings[columns].long() << 32) + self.positions[columns]
        return place.argsort(dim=1, stable=True)

    def merge(self, other: TopActivations) -> None:
        """Add the examples of ``other``, which saw other recordings.

        Ties go to the earlier recording if both saw their recordings in the order of the corpus.
        """
        k = self.values.shape[1]
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)], dim=1) for name in self.saved}
        place = (joined["recordings"].long() << 32) + joined["positions"]
        by_corpus = place.argsort(dim=1, stable=True)
        order = joined["values"].gather(1, by_corpus).sort(dim=1, descending=True, stable=True).indices
        best = by_corpus.gather(1, order)[:, :k]
        feature = torch.arange(len(best), device=best.device)[:, None]
        self.values, self.recordings, self.positions, self.traces = (joined[name][feature, best] for name in self.saved)

    def ranked(self) -> RankedActivations:
        """Return the examples so far, sorted."""
        features = torch.arange(len(self.values), device=self.values.device)
        order = self._order(self.values, features)
        values, recordings, positions = (x.gather(1, order) for x in (self.values, self.recordings, self.positions))
        empty = ~torch.isfinite(values)
        return RankedActivations(
            values.masked_fill(empty, torch.nan),
            recordings.masked_fill(empty, -1),
            positions.masked_fill(empty, -1),
            self.traces[features[:, None], order].masked_fill(empty[..., None], torch.nan),
        )

    def _candidates(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c m"], Int[Tensor, "c m"]]:
        """Return the largest values of each column, at most k, in the order of their rows, and the rows."""
        if self.separation:
            x = x.masked_fill(~peaks(x, self.separation), _LOW)
        m = min(self.values.shape[1], len(x))
        least = x.topk(m, dim=0).values[-1]
        above, equal = x > least, x == least
        # topk takes any of the equal values at the boundary; take the first ones
        room = m - above.sum(0)
        mask = above | (equal & (equal.cumsum(0) <= room))
        rows = mask.T.nonzero()[:, 1].view(-1, m)
        return x.T.gather(1, rows), rows

    def _around(self, x: Tensor, rows: Int[Tensor, "n"], features: Int[Tensor, "n"]) -> Float[Tensor, "n around"]:
        around = rows[:, None] + torch.arange(-self.context, self.context + 1, device=x.device)
        inside = (around >= 0) & (around < len(x))
        return x[around.clamp(0, len(x) - 1), features[:, None]].masked_fill(~inside, torch.nan)


def first_largest(x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c"], Int[Tensor, "c"]]:
    """Return the largest value of each column and its row (the first of equals), ten times as fast as ``x.max(0)``.

    Maxima without indices are fast. The index is searched only in the first block of rows with the maximum.
    """
    n, columns = x.shape
    whole = n // _BLOCK * _BLOCK
    parts = [x[:whole].view(-1, _BLOCK, columns).amax(1)]
    if whole < n:
        parts.append(x[whole:].amax(0, keepdim=True))
    block = torch.cat(parts).max(0).indices
    rows = (block * _BLOCK + torch.arange(_BLOCK, device=x.device)[:, None]).clamp_max(n - 1)  # [row of block, column]
    values, within = x.gather(0, rows).max(0)
    return values, rows.gather(0, within[None])[0]


def peaks(x: Float[Tensor, "n c"], separation: int) -> Bool[Tensor, "n c"]:
    """Mark values that are the largest within ``separation`` rows on either side (the first of equals)."""
    padded = F.pad(x.T[:, None], (separation, separation), value=_LOW)
    sliding = F.max_pool1d(padded, separation, stride=1)[:, 0].T  # [n + separation + 1, c]: max of rows i-s .. i-1
    before, after = sliding[: len(x)], sliding[separation + 1 :]
    return (x > before) & (x >= after)


def _larger_of_recording(
    examples: Float[Tensor, "c k"], new: Float[Tensor, "c 1"], same: Bool[Tensor, "c k"]
) -> tuple[Float[Tensor, "c k"], Float[Tensor, "c 1"]]:
    """For each feature, keep the larger of a recording's earlier example and its new one."""
    old = examples.masked_fill(~same, _LOW).amax(1, keepdim=True)
    new_if_larger = new.masked_fill((new <= old) & same.any(1, keepdim=True), _LOW)
    return examples.masked_fill(same & (new > old), _LOW), new_if_larger
