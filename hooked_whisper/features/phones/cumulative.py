"""Cumulative counts over the bins, from either end: the basis of thresholds at every bin and of ranges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper._support.showing import Showing
from hooked_whisper.features.phones.joint_histogram import JointCounts

Table = Float[np.ndarray, "feature label bin"]


@dataclass(frozen=True, eq=False, repr=False)
class CumulativeCounts(Showing):
    """Rows up to each bin, as float64 (exact for integers). Bins are the last axis, adjacent in memory.

    Attributes:
        up: rows in this bin or a lower one.
        down: rows in the k-th highest bin or a higher one; ``down[0]`` is the highest.
        up_totals, down_totals: the same, summed over labels.
    """

    up: Table
    down: Table
    up_totals: Float[np.ndarray, "feature bin"]
    down_totals: Float[np.ndarray, "feature bin"]

    @classmethod
    def of(cls, counts: JointCounts, bins: slice) -> CumulativeCounts:
        """Accumulate some bins; the others must be empty."""
        hits, totals = counts.counts[:, bins].transpose(0, 2, 1), counts.totals[:, bins]
        # int32 sums and a conversion take a third of the time of float64 sums
        return cls(
            *(
                np.cumsum(x, axis=-1, dtype=np.int32).astype(np.float64)
                for x in (hits, hits[:, :, ::-1], totals, totals[:, ::-1])
            )
        )

    def __add__(self, other: CumulativeCounts) -> CumulativeCounts:
        return CumulativeCounts(
            self.up + other.up,
            self.down + other.down,
            self.up_totals + other.up_totals,
            self.down_totals + other.down_totals,
        )

    def __sub__(self, other: CumulativeCounts) -> CumulativeCounts:
        return CumulativeCounts(
            self.up - other.up,
            self.down - other.down,
            self.up_totals - other.up_totals,
            self.down_totals - other.down_totals,
        )

    @property
    def counts(self) -> Int[np.ndarray, "feature label bin"]:
        """Rows in each bin."""
        return np.diff(self.up, axis=2, prepend=0).astype(np.int64)

    @property
    def totals(self) -> Int[np.ndarray, "feature bin"]:
        return np.diff(self.up_totals, axis=1, prepend=0).astype(np.int64)

    @property
    def rows(self) -> Float[np.ndarray, "feature label"]:
        """Rows with each label."""
        return self.up[:, :, -1]

    @property
    def auc(self) -> Float[np.ndarray, "feature label"]:
        """Probability that a row with the label has a higher value than a row without it; ties count half.

        NaN where all rows or none have the label. Exact: all terms are multiples of 1/2 below 2**53.
        """
        counts = np.diff(self.up, axis=2, prepend=0)
        middle = self.up_totals - np.diff(self.up_totals, axis=1, prepend=0) / 2
        wins = (counts @ middle[:, :, None])[:, :, 0] - self.rows**2 / 2  # minus pairs of rows of the same label
        pairs = self.rows * (self.up_totals[:, -1:] - self.rows)
        return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)

    def rebinned(
        self, range_of_bin: Int[np.ndarray, "feature bin"], n_ranges: int
    ) -> Int[np.ndarray, "feature range label"]:
        """Rows in ranges of bins.

        range_of_bin: the range of each bin, non-decreasing.
        """
        ends = (range_of_bin[:, :, None] <= np.arange(n_ranges)).sum(axis=1)  # bins up to each range's end
        upto = np.take_along_axis(self.up, np.maximum(ends - 1, 0)[:, None, :], axis=2)
        upto[np.broadcast_to((ends == 0)[:, None, :], upto.shape)] = 0
        return np.diff(upto, axis=2, prepend=0).transpose(0, 2, 1).astype(np.int64)
