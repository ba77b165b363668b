"""The k largest activations of every feature over a corpus: exact, streaming, with what happened around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.scan.state import Accumulator, Stretch

_LOW = -torch.inf
_BLOCK = 32


class Ranked(NamedTuple):
    """``[feature, k]``, largest first, of equal values the one earlier in the corpus first; traces around each.
    Unfilled places have value NaN and recording -1."""

    values: Float[Tensor, "feature k"]
    recordings: Int[Tensor, "feature k"]
    positions: Int[Tensor, "feature k"]
    traces: Float[Tensor, "feature k around"]


class TopK(Accumulator):
    """The ``k`` largest activations of each feature, in any order; :meth:`ranked` puts them in order.

    Args:
        context: positions kept on either side of each example.
        one_per_recording: at most one example of a feature from each recording, its largest.
        separation: an example must be the largest within so many positions on either side (of equals the first).
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

    def add(self, stretch: Stretch, largest: Float[Tensor, "feature"]) -> None:
        """``largest`` is the maximum of each feature over the stretch."""
        # what comes later must be larger than the smallest example kept: most features of most stretches end here
        columns = (largest > self.values.amin(1)).nonzero()[:, 0]
        if not len(columns):
            return
        if self.one_per_recording:
            new, rows = (one[columns, None] for one in first_largest(stretch.x))
        else:
            new, rows = self._candidates(stretch.x[:, columns])
        old = self.values[columns]
        if self.one_per_recording:
            old, new = _one_of_both(old, new, self.recordings[columns] == stretch.recording)
        k = old.shape[1]
        joined = torch.cat([old, new], dim=1)
        best = self._order(joined, columns)[:, :k]
        stays = torch.zeros_like(joined, dtype=torch.bool).scatter_(1, best, True) & torch.isfinite(joined)
        # only what changes is written: each new example into a place that an old one leaves, or that was empty
        taken = stays[:, k:].nonzero(as_tuple=True)
        free = ~stays[:, :k]
        free &= free.cumsum(1) <= stays[:, k:].sum(1, keepdim=True)
        into, place = free.nonzero(as_tuple=True)
        self.values[columns] = old  # a place that its recording's larger value has left is empty
        into = columns[into]
        self.values[into, place] = new[taken]
        self.recordings[into, place] = stretch.recording
        self.positions[into, place] = (rows[taken] + stretch.first).int()
        self.traces[into, place] = self._around(stretch.x, rows[taken], into)

    def _order(self, joined: Float[Tensor, "c n"], columns: Int[Tensor, "c"]) -> Int[Tensor, "c n"]:
        """Largest first, of equals the one earlier in the corpus; the new ones, behind the k old, come later."""
        old = self._corpus_order(columns)
        later = torch.arange(old.shape[1], joined.shape[1], device=old.device).expand(len(old), -1)
        by_corpus = torch.cat([old, later], dim=1)
        return by_corpus.gather(1, joined.gather(1, by_corpus).sort(dim=1, descending=True, stable=True).indices)

    def _corpus_order(self, columns: Int[Tensor, "c"]) -> Int[Tensor, "c k"]:
        when = (self.recordings[columns].long() << 32) + self.positions[columns]
        return when.argsort(dim=1, stable=True)

    def merge(self, other: TopK) -> None:
        """``other`` has seen other recordings. Ties go to the earlier in the corpus, as long as each was given its
        recordings in the order of the corpus."""
        k = self.values.shape[1]
        joined = {name: torch.cat([getattr(self, name), getattr(other, name)], dim=1) for name in self.saved}
        when = (joined["recordings"].long() << 32) + joined["positions"]
        by_corpus = when.argsort(dim=1, stable=True)
        order = joined["values"].gather(1, by_corpus).sort(dim=1, descending=True, stable=True).indices
        best = by_corpus.gather(1, order)[:, :k]
        every = torch.arange(len(best), device=best.device)[:, None]
        self.values, self.recordings, self.positions, self.traces = (joined[name][every, best] for name in self.saved)

    def ranked(self) -> Ranked:
        """What was found so far."""
        everything = torch.arange(len(self.values), device=self.values.device)
        order = self._order(self.values, everything)
        values, recordings, positions = (x.gather(1, order) for x in (self.values, self.recordings, self.positions))
        empty = ~torch.isfinite(values)
        return Ranked(
            values.masked_fill(empty, torch.nan),
            recordings.masked_fill(empty, -1),
            positions.masked_fill(empty, -1),
            self.traces[everything[:, None], order].masked_fill(empty[..., None], torch.nan),
        )

    def _candidates(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c m"], Int[Tensor, "c m"]]:
        """The largest values of each column in the order of their rows, at most k, and their rows."""
        if self.separation:
            x = x.masked_fill(~peaks(x, self.separation), _LOW)
        m = min(self.values.shape[1], len(x))
        least = x.topk(m, dim=0).values[-1]
        above, equal = x > least, x == least
        # topk takes any of the equal values at the boundary; we want the first ones
        room = m - above.sum(0)
        chosen = above | (equal & (equal.cumsum(0) <= room))
        rows = chosen.T.nonzero()[:, 1].view(-1, m)
        return x.T.gather(1, rows), rows

    def _around(self, x: Tensor, rows: Int[Tensor, "n"], features: Int[Tensor, "n"]) -> Float[Tensor, "n around"]:
        at = rows[:, None] + torch.arange(-self.context, self.context + 1, device=x.device)
        inside = (at >= 0) & (at < len(x))
        return x[at.clamp(0, len(x) - 1), features[:, None]].masked_fill(~inside, torch.nan)


def first_largest(x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c"], Int[Tensor, "c"]]:
    """Largest value of each column and its row, the first of equals: ``x.max(0)`` in a tenth of the time.

    Maxima without indices are fast; the index is looked for in the first block of rows that has the maximum.
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
    """Where a value is the largest within ``separation`` rows on either side, the first of equals."""
    padded = F.pad(x.T[:, None], (separation, separation), value=_LOW)
    sliding = F.max_pool1d(padded, separation, stride=1)[:, 0].T  # [n + separation + 1, c]: max of rows i-s .. i-1
    before, after = sliding[: len(x)], sliding[separation + 1 :]
    return (x > before) & (x >= after)


def _one_of_both(
    kept: Float[Tensor, "c k"], new: Float[Tensor, "c 1"], same: Bool[Tensor, "c k"]
) -> tuple[Float[Tensor, "c k"], Float[Tensor, "c 1"]]:
    """Where a recording has an example already (a window before), only the larger of it and the new one stays."""
    old = kept.masked_fill(~same, _LOW).amax(1, keepdim=True)
    return kept.masked_fill(same & (new > old), _LOW), new.masked_fill((new <= old) & same.any(1, keepdim=True), _LOW)
