"""Moments of activations, computed per shard and merged, so that they do not depend on interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.showing import Showing

_ELEMENTS = 2**17  # converted to float64 at a time; blocks that fit the cache take a fifth of the time


@dataclass(frozen=True, eq=False, repr=False)
class Statistics(Showing):
    """Statistics of rows ``[row, d]``, in float64.

    m2: sums of squared differences from the mean. norm, square_norm: sums over rows of the norm and of its square.

    Source of the merging formula: Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances".
    """

    count: int
    mean: Float[Tensor, "d"]
    m2: Float[Tensor, "d"]
    norm: float
    square_norm: float

    @property
    def variance(self) -> Float[Tensor, "d"]:
        """Population variance of each dimension."""
        return self.m2 / self.count

    @property
    def mean_norm(self) -> float:
        """Mean norm of a row."""
        return self.norm / self.count

    @property
    def mean_square_norm(self) -> float:
        """Mean squared norm of a row."""
        return self.square_norm / self.count


def statistics_of(rows: Float[Tensor, "row d"]) -> Statistics:
    """Compute the statistics of at least one row."""
    block = max(1, _ELEMENTS // max(1, rows.shape[1]))
    return merged([_of_part(part.double()) for part in rows.split(block)])


def _of_part(x: Float[Tensor, "row d"]) -> Statistics:
    squares = x.square().sum(1)
    mean = x.mean(0)
    return Statistics(len(x), mean, (x - mean).square_().sum(0), float(squares.sqrt().sum()), float(squares.sum()))


def merged(parts: Sequence[Statistics]) -> Statistics:
    """Merge the statistics of at least one part."""
    whole = parts[0]
    for part in parts[1:]:
        count = whole.count + part.count
        step = part.mean - whole.mean
        whole = Statistics(
            count,
            whole.mean + step * (part.count / count),
            whole.m2 + part.m2 + step.square() * (whole.count * part.count / count),
            whole.norm + part.norm,
            whole.square_norm + part.square_norm,
        )
    return whole
