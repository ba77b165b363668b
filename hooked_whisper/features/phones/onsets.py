"""Mean activation around the onsets of each label, and the latency of a feature's peak after an onset."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.position_labels import PositionLabels

BEFORE, AFTER = 10, 20  # positions: 200 ms before an onset to 400 ms after it
REACH = 10  # positions on either side within which a peak is attributed to the label


class OnsetAverages:
    """Mean features at every lag from the onsets of each label; positions outside the clip are dropped."""

    def __init__(self, n_features: int, names: tuple[str, ...], before: int = BEFORE, after: int = AFTER) -> None:
        if before < 0 or after < 0:
            raise PatchError(f"before is {before} and after is {after}, expected at least 0 positions")
        self.names, self.lags = tuple(names), np.arange(-before, after + 1)
        self._sums = torch.zeros(len(names) * len(self.lags), n_features, dtype=torch.float64)
        self._counts = np.zeros((len(names), len(self.lags)), dtype=np.int64)

    def add(self, features: Float[Tensor, "position feature"], labels: PositionLabels) -> None:
        """Add one clip.

        Raises:
            PatchError: the labels have other names or another length, or a value is not finite.
        """
        if labels.names != self.names or len(labels.ids) != len(features):
            raise PatchError(
                f"{len(features)} rows and {len(labels.ids)} labels, or other label names: give one label per row, "
                "with the names that these averages were created with"
            )
        if not torch.isfinite(features).all():
            raise PatchError("a feature is NaN or infinite: check the activations before averaging them")
        onsets = np.flatnonzero(labels.onset & (labels.ids >= 0))
        positions = onsets[:, None] + self.lags
        inside = (positions >= 0) & (positions < len(features))
        slots = labels.ids[onsets][:, None] * len(self.lags) + np.arange(len(self.lags))
        # a position has many lags: multiply its row by a count matrix instead of copying it
        used, slot = np.unique(slots[inside], return_inverse=True)
        times = torch.zeros(len(used), len(features), dtype=torch.float64)
        index = (torch.from_numpy(slot), torch.from_numpy(positions[inside]))
        times.index_put_(index, torch.ones((), dtype=torch.float64), accumulate=True)
        self._sums[torch.from_numpy(used)] += times @ features.detach().cpu().double()
        self._counts += np.bincount(slots[inside], minlength=self._counts.size).reshape(self._counts.shape)

    @property
    def counts(self) -> Int[np.ndarray, "label lag"]:
        """Number of positions in each mean."""
        return self._counts

    @property
    def mean(self) -> Float[np.ndarray, "feature label lag"]:
        """Mean activation; NaN without positions."""
        sums = self._sums.numpy().reshape(*self._counts.shape, -1)
        counts = self._counts[:, :, None]
        mean = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return mean.transpose(2, 0, 1)

    def __add__(self, other: OnsetAverages) -> OnsetAverages:
        """Averages over both parts of a corpus.

        Raises:
            PatchError: features, labels or lags differ.
        """
        if (
            self.names != other.names
            or not np.array_equal(self.lags, other.lags)
            or self._sums.shape != other._sums.shape
        ):
            raise PatchError("the averages have different features, labels or lags: use the same for both parts")
        whole = OnsetAverages(self._sums.shape[1], self.names, int(-self.lags[0]), int(self.lags[-1]))
        whole._sums, whole._counts = self._sums + other._sums, self._counts + other._counts
        return whole


def latency(
    averages: OnsetAverages, labels: Int[np.ndarray, "feature"], sign: Int[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Positions (20 ms) from the onset of each feature's label to the peak of its mean activation, -10 to 10.

    Args:
        labels: label of each feature (:attr:`Selectivity.best`); -1 for none.
        sign: 1 for the maximum, -1 for the minimum.

    Returns:
        NaN for a feature without a label, a label without onsets, and a flat mean.
    """
    near = np.abs(averages.lags) <= REACH
    curves = averages.mean[np.arange(len(labels)), labels][:, near] * sign[:, None]
    known = (labels >= 0) & np.isfinite(curves).any(axis=1)
    filled = np.where(np.isfinite(curves), curves, -np.inf)
    peaks = averages.lags[near][filled.argmax(axis=1)].astype(float)
    flat = filled.max(axis=1) - np.where(np.isfinite(curves), curves, np.inf).min(axis=1) <= 0
    return np.where(known & ~flat, peaks, np.nan)
