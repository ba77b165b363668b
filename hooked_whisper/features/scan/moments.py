"""Mean, variance, extremes, and a histogram of the positive values of every feature, in one pass."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan.state import Accumulator, WindowFeatures

_ROWS, _COLUMNS = 128, 256  # block size: blocks that fit the cache take half the time
_BITS = 52  # of the fractional part of sums


class Moments(Accumulator):
    """Mean, variance, extremes and histogram of each feature.

    A window is summed in float32 about its mean, which avoids cancellation. The sums of windows are added as integers,
    so that their order does not matter.

    ``histogram [feature, 1 + per_sign]``: positions that are negative or about zero, then those in each positive bin.
    """

    saved = ("count", "total", "squares", "largest", "smallest", "_counted")

    def __init__(self, n_features: int, bins: HistogramBins, device: torch.device | str = "cpu") -> None:
        self.bins, self._width = bins, 1 + bins.per_sign
        self.count = torch.zeros((), dtype=torch.int64)
        self.total = torch.zeros(2, n_features, dtype=torch.int64, device=device)
        self.squares = torch.zeros(2, n_features, dtype=torch.int64, device=device)
        self.largest = torch.full((n_features,), -torch.inf, device=device)
        self.smallest = torch.full((n_features,), torch.inf, device=device)
        self._counted = torch.zeros(n_features * self._width, dtype=torch.int64, device=device)
        self._offsets = torch.arange(_COLUMNS, dtype=torch.int32, device=device) * self._width

    def add(
        self, window: WindowFeatures, largest: Float[Tensor, "feature"], smallest: Float[Tensor, "feature"]
    ) -> None:
        """Add one window, given the extremes of its features.

        Raises:
            HookedWhisperError: the squares of a feature sum to 2**62 or more.
        """
        x = window.x
        total, squares = _sums(x)
        add_exactly(self.total, total)
        add_exactly(self.squares, squares)
        self.count += len(x)
        torch.maximum(self.largest, largest, out=self.largest)
        torch.minimum(self.smallest, smallest, out=self.smallest)
        for first in range(0, x.shape[1], _COLUMNS):
            index = self.bins.positive(x[:, first : first + _COLUMNS])
            index += self._offsets[: index.shape[1]]
            table = self._counted[first * self._width :][: index.shape[1] * self._width]
            table += torch.bincount(index.view(-1), minlength=len(table))

    def merge(self, other: Moments) -> None:
        self.count += other.count
        for number, addend in ((self.total, other.total), (self.squares, other.squares)):
            number += addend
            _carry(number)
        torch.maximum(self.largest, other.largest, out=self.largest)
        torch.minimum(self.smallest, other.smallest, out=self.smallest)
        self._counted += other._counted

    @property
    def mean(self) -> Float[Tensor, "feature"]:
        """float64; NaN before the first position."""
        n = int(self.count) << _BITS
        return self._numbers([total / n if n else math.nan for total in _integers(self.total)])

    @property
    def variance(self) -> Float[Tensor, "feature"]:
        """Population variance, float64."""
        n = int(self.count)
        if not n:
            return self.mean
        sums = zip(_integers(self.total), _integers(self.squares), strict=True)
        # integers are exact; only the division rounds
        return self._numbers([max(0, (n * s << _BITS) - t * t) / (n * n << 2 * _BITS) for t, s in sums])

    def _numbers(self, values: list[float]) -> Float[Tensor, "feature"]:
        return torch.tensor(values, dtype=torch.float64, device=self.total.device)

    @property
    def histogram(self) -> Int[Tensor, "feature bin"]:
        return self._counted.view(self.total.shape[1], self._width).clone()


def _sums(x: Float[Tensor, "position feature"]) -> tuple[Float[Tensor, "feature"], Float[Tensor, "feature"]]:
    """Sum and sum of squares of each feature, float64."""
    reference = x[:_ROWS].mean(0)
    total = torch.zeros_like(reference, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for rows in x.split(_ROWS):
        centered = rows - reference
        total += centered.sum(0)
        squares += centered.square_().sum(0)
    about = reference.double()
    squares += about * (2 * total + len(x) * about)
    return total + len(x) * about, squares


def add_exactly(number: Int[Tensor, "2 feature"], values: Float[Tensor, "feature"]) -> None:
    """Add float64 values to fixed-point numbers: integers, and units of ``2**-52``. The order does not change the sum.

    Raises:
        HookedWhisperError: a value is 2**62 or larger.
    """
    if not bool((values.abs() < 2.0**62).all()):
        raise HookedWhisperError(
            "activations are too large to sum (above a hundred million): check the weights and the audio"
        )
    units = values.floor()
    number[0] += units.long()
    number[1] += ((values - units) * 2.0**_BITS).long()
    _carry(number)


def _carry(number: Int[Tensor, "2 feature"]) -> None:
    number[0] += number[1] >> _BITS
    number[1] &= (1 << _BITS) - 1


def _integers(number: Int[Tensor, "2 feature"]) -> list[int]:
    """Convert to Python integers in units of ``2**-52``."""
    return [(units << _BITS) + parts for units, parts in zip(*number.tolist(), strict=True)]
