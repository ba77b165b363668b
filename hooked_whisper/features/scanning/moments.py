"""Mean, variance, extremes, and a histogram of the positive values of every feature, in one pass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.features.cells import Cells
from hooked_whisper.features.scanning.state import Accumulator, Stretch

_ROWS, _COLUMNS = 128, 128  # worked on together: what stays in the cache takes half of the time
_FLUSH = 2**30  # positions after which 32-bit counts are added to the 64-bit ones (which cost twice the time)


class Moments(Accumulator):
    """Sums are float64 over positions, each stretch summed in float32 about a first mean, so that nothing cancels.

    ``histogram [feature, 1 + per_sign]``: positions that are negative or about zero, then those in each positive cell.
    """

    saved = ("count", "reference", "total", "squares", "largest", "smallest", "_recent", "_counted", "_unflushed")

    def __init__(self, n_features: int, cells: Cells, device: torch.device | str = "cpu") -> None:
        self.cells, self._width = cells, 1 + cells.per_sign
        wide = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros((), dtype=torch.int64)
        self.reference = torch.zeros(n_features, device=device)
        self.total = torch.zeros(n_features, **wide)  # type: ignore[call-overload]
        self.squares = torch.zeros(n_features, **wide)  # type: ignore[call-overload]
        self.largest = torch.full((n_features,), -torch.inf, device=device)
        self.smallest = torch.full((n_features,), torch.inf, device=device)
        self._recent = torch.zeros(n_features * self._width, dtype=torch.int32, device=device)
        self._counted = torch.zeros(n_features * self._width, dtype=torch.int64, device=device)
        self._unflushed = torch.zeros((), dtype=torch.int64)
        self._offsets = torch.arange(n_features, device=device) * self._width
        self._one = torch.ones((), dtype=torch.int32, device=device)

    def add(self, stretch: Stretch, largest: Float[Tensor, "feature"], smallest: Float[Tensor, "feature"]) -> None:
        x = stretch.x
        if not self.count:
            self.reference = x.mean(0)
        for rows in x.split(_ROWS):
            centred = rows - self.reference
            self.total += centred.sum(0)
            self.squares += centred.square_().sum(0)
        self.count += len(x)
        torch.maximum(self.largest, largest, out=self.largest)
        torch.minimum(self.smallest, smallest, out=self.smallest)
        for first in range(0, x.shape[1], _COLUMNS):
            some = slice(first, first + _COLUMNS)
            index = self.cells.positive(x[:, some]).long()
            index += self._offsets[: index.shape[1]]
            table = self._recent[first * self._width : (first + _COLUMNS) * self._width]
            table.scatter_add_(0, index.view(-1), self._one.expand(index.numel()))
        self._unflushed += len(x)
        if self._unflushed > _FLUSH:
            self._counted += self._recent
            self._recent.zero_()
            self._unflushed.zero_()

    @property
    def mean(self) -> Float[Tensor, "feature"]:
        """float64; NaN before the first position."""
        return self.reference.double() + self.total / self.count

    @property
    def variance(self) -> Float[Tensor, "feature"]:
        """Population variance, float64."""
        return (self.squares / self.count - (self.total / self.count).square()).clamp_min(0)

    @property
    def histogram(self) -> Int[Tensor, "feature cell"]:
        return (self._counted + self._recent).view(len(self.total), self._width)
