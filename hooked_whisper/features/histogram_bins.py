"""Logarithmic histogram bins: sign, octave, and fraction of an octave.

The bins are relative, so that one set serves features of every scale. A value's bin is computed from the bits of the
float with a few integer operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MANTISSA, _BIAS = 23, 127  # of float32


@dataclass(frozen=True)
class HistogramBins:
    """``2 m + 1`` bins in ascending order: m negative ones, one about zero, and m positive ones.

    Every octave has ``2**bits`` bins of equal width; 4 bits separate values that differ by 6 % or more. Values smaller
    than ``2**lowest`` are about zero, and values beyond ``2**highest`` are in the outermost bin. A positive bin
    contains its lower edge, a negative one its upper edge.
    """

    bits: int = 4
    lowest: int = -10
    highest: int = 10

    @property
    def per_sign(self) -> int:
        return (self.highest - self.lowest) << self.bits

    @property
    def n(self) -> int:
        return 2 * self.per_sign + 1

    @cached_property
    def edges(self) -> Float[Tensor, "edge"]:
        """Edges as float64: bin i contains values from ``edges[i]`` to ``edges[i + 1]``. The outermost are infinite."""
        steps = torch.arange(self.per_sign + 1, dtype=torch.float64)
        octave, part = steps // (1 << self.bits), steps % (1 << self.bits)
        positive = torch.exp2(octave + self.lowest) * (1 + part / (1 << self.bits))
        positive[-1] = torch.inf
        return torch.cat([-positive.flip(0), positive])

    def of(self, x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Index of each value's bin, int32. The bin of NaN is undefined."""
        raw = x.to(torch.float32).contiguous().view(torch.int32)
        sign = raw >> 31  # 0 or -1
        size = ((raw & 0x7FFFFFFF) >> (_MANTISSA - self.bits)) - (((_BIAS + self.lowest) << self.bits) - 1)
        size.clamp_(0, self.per_sign)
        return size.bitwise_xor_(sign).sub_(sign).add_(self.per_sign)

    def positive(self, x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Like :meth:`of`, but 0 for all values that are negative or about zero; takes half the time."""
        below = torch.nextafter(torch.tensor(2.0**self.lowest), torch.tensor(0.0)).item()
        raw = x.to(torch.float32).clamp(below, 2.0 ** (self.highest + 1)).view(torch.int32)
        first = (_BIAS + self.lowest) << self.bits
        return raw.bitwise_right_shift_(_MANTISSA - self.bits).sub_(first - 1).clamp_max_(self.per_sign)
