"""Activations in bins: sign, octave, fraction of an octave. Scale-free, so that one grid serves every feature, and
made from the bits of the float, so that it costs a few integer operations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MANTISSA, _BIAS = 23, 127  # of float32


@dataclass(frozen=True)
class HistogramBins:
    """``2 m + 1`` bins in the order of the values they hold: m negative ones, one about zero, m positive ones.

    ``bits`` splits every octave into ``2**bits`` bins of equal width: 4 tells values apart that differ by 6 % or more.
    What is smaller than ``2**lowest`` is about zero; what is beyond ``2**highest`` goes into the outermost bin.
    A positive bin holds its lower edge, a negative one its upper.
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
        """float64 ``[n + 1]``: bin i holds values from ``edges[i]`` to ``edges[i + 1]``; the ends are infinite."""
        steps = torch.arange(self.per_sign + 1, dtype=torch.float64)
        octave, part = steps // (1 << self.bits), steps % (1 << self.bits)
        positive = torch.exp2(octave + self.lowest) * (1 + part / (1 << self.bits))
        positive[-1] = torch.inf
        return torch.cat([-positive.flip(0), positive])

    def of(self, x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Index of each value's bin, int32. NaN has no bin: check for it before."""
        raw = x.to(torch.float32).contiguous().view(torch.int32)
        sign = raw >> 31  # 0 or -1
        size = ((raw & 0x7FFFFFFF) >> (_MANTISSA - self.bits)) - (((_BIAS + self.lowest) << self.bits) - 1)
        size.clamp_(0, self.per_sign)
        return size.bitwise_xor_(sign).sub_(sign).add_(self.per_sign)

    def positive(self, x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """int32: 0 for what is negative or about zero, 1 to ``per_sign`` for the positive bins. Half the work."""
        below = torch.nextafter(torch.tensor(2.0**self.lowest), torch.tensor(0.0)).item()
        raw = x.to(torch.float32).clamp(below, 2.0 ** (self.highest + 1)).view(torch.int32)
        first = (_BIAS + self.lowest) << self.bits
        return raw.bitwise_right_shift_(_MANTISSA - self.bits).sub_(first - 1).clamp_max_(self.per_sign)
