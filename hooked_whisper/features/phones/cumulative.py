"""Cumulative counts over the cells, from either end: what thresholds at every cell, and ranges, are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.features.phones.joint_histogram import JointCounts

Table = Float[np.ndarray, "feature label cell"]


@dataclass(frozen=True, eq=False)
class CumulativeCounts:
    """Rows up to each cell, as float64 (exact: whole numbers), cells last so that they lie side by side in memory.

    Attributes:
        up: rows in this cell or a lower one; down: in the k-th highest cell or a higher one (``down[0]``: the highest).
        up_totals, down_totals: the same for all labels together.
    """

    up: Table
    down: Table
    up_totals: Float[np.ndarray, "feature cell"]
    down_totals: Float[np.ndarray, "feature cell"]

    @classmethod
    def of(cls, counts: JointCounts, cells: slice) -> CumulativeCounts:
        """Of some cells; there must be no row in the others."""
        hits, totals = counts.counts[:, cells].transpose(0, 2, 1), counts.totals[:, cells]
        # sums of int32 and a conversion take a third of the time of sums of float64
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
    def counts(self) -> Int[np.ndarray, "feature label cell"]:
        """Rows in each cell."""
        return np.diff(self.up, axis=2, prepend=0).astype(np.int64)

    @property
    def totals(self) -> Int[np.ndarray, "feature cell"]:
        return np.diff(self.up_totals, axis=1, prepend=0).astype(np.int64)

    @property
    def rows(self) -> Float[np.ndarray, "feature label"]:
        """Rows with each label."""
        return self.up[:, :, -1]

    @property
    def auc(self) -> Float[np.ndarray, "feature label"]:
        """Probability that a row with the label has a higher value than one without, ties counting half.

        NaN where all rows or none have the label. Exact: all terms are multiples of 1/2 below 2**53.
        """
        counts = np.diff(self.up, axis=2, prepend=0)
        middle = self.up_totals - np.diff(self.up_totals, axis=1, prepend=0) / 2
        wins = (counts @ middle[:, :, None])[:, :, 0] - self.rows**2 / 2  # less those against rows of the label itself
        pairs = self.rows * (self.up_totals[:, -1:] - self.rows)
        return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)

    def rebinned(self, bins: Int[np.ndarray, "feature cell"], n_bins: int) -> Int[np.ndarray, "feature bin label"]:
        """Rows in ranges of cells. bins: the range of each cell, not falling from cell to cell."""
        ends = (bins[:, :, None] <= np.arange(n_bins)).sum(axis=1)  # cells up to each range's end
        upto = np.take_along_axis(self.up, np.maximum(ends - 1, 0)[:, None, :], axis=2)
        upto[np.broadcast_to((ends == 0)[:, None, :], upto.shape)] = 0
        return np.diff(upto, axis=2, prepend=0).transpose(0, 2, 1).astype(np.int64)
