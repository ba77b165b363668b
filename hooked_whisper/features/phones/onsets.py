"""Mean activation round the onsets of each label, and how late after an onset a feature peaks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.position_labels import PositionLabels

BEFORE, AFTER = 10, 20  # positions: 200 ms before an onset to 400 ms after it
REACH = 10  # positions either side within which a peak counts as the label's


class OnsetAverages:
    """Sums of features at every lag from the onsets of every label; positions outside the clip are left out."""

    def __init__(self, n_features: int, names: tuple[str, ...], before: int = BEFORE, after: int = AFTER) -> None:
        if before < 0 or after < 0:
            raise PatchError(f"lags run from -before to after, both 0 or more, got {before} and {after}")
        self.names, self.lags = tuple(names), np.arange(-before, after + 1)
        self._sums = torch.zeros(len(names) * len(self.lags), n_features, dtype=torch.float64)
        self._counts = np.zeros((len(names), len(self.lags)), dtype=np.int64)

    def add(self, features: Float[Tensor, "position feature"], labels: PositionLabels) -> None:
        """One clip. Raises :class:`PatchError` for other names or lengths, or values that are not finite."""
        if labels.names != self.names or len(labels.ids) != len(features):
            raise PatchError(
                f"{len(features)} rows and {len(labels.ids)} labels, or names that are not these averages'"
            )
        if not torch.isfinite(features).all():
            raise PatchError("a feature is NaN or infinite: look at the activations before averaging them")
        onsets = np.flatnonzero(labels.onset & (labels.ids >= 0))
        at = onsets[:, None] + self.lags
        there = (at >= 0) & (at < len(features))
        bins = labels.ids[onsets][:, None] * len(self.lags) + np.arange(len(self.lags))
        # a position counts at many lags: one product with how often it does, instead of a copy of its row for each
        used, place = np.unique(bins[there], return_inverse=True)
        times = torch.zeros(len(used), len(features), dtype=torch.float64)
        index = (torch.from_numpy(place), torch.from_numpy(at[there]))
        times.index_put_(index, torch.ones((), dtype=torch.float64), accumulate=True)
        self._sums[torch.from_numpy(used)] += times @ features.detach().cpu().double()
        self._counts += np.bincount(bins[there], minlength=self._counts.size).reshape(self._counts.shape)

    @property
    def counts(self) -> Int[np.ndarray, "label lag"]:
        """Positions averaged."""
        return self._counts

    @property
    def mean(self) -> Float[np.ndarray, "feature label lag"]:
        """NaN where no position was."""
        sums = self._sums.numpy().reshape(*self._counts.shape, -1)
        counts = self._counts[:, :, None]
        mean = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return mean.transpose(2, 0, 1)

    def __add__(self, other: OnsetAverages) -> OnsetAverages:
        """Averages over both parts of a corpus. Raises :class:`PatchError` if they average different things."""
        if (
            self.names != other.names
            or not np.array_equal(self.lags, other.lags)
            or self._sums.shape != other._sums.shape
        ):
            raise PatchError("averages of different features, labels or lags do not add up")
        whole = OnsetAverages(self._sums.shape[1], self.names, int(-self.lags[0]), int(self.lags[-1]))
        whole._sums, whole._counts = self._sums + other._sums, self._counts + other._counts
        return whole


def latency(
    averages: OnsetAverages, labels: Int[np.ndarray, "feature"], sign: Int[np.ndarray, "feature"]
) -> Float[np.ndarray, "feature"]:
    """Positions (20 ms) from the onset of each feature's label to the peak of its mean activation, -10 to 10.

    Args:
        labels: a label per feature (:attr:`Selectivity.best`); -1 for none.
        sign: 1 to look for the maximum, -1 for the minimum.

    NaN for a feature without label, a label without onsets, and a flat mean.
    """
    near = np.abs(averages.lags) <= REACH
    curves = averages.mean[np.arange(len(labels)), labels][:, near] * sign[:, None]
    known = (labels >= 0) & np.isfinite(curves).any(axis=1)
    filled = np.where(np.isfinite(curves), curves, -np.inf)
    peaks = averages.lags[near][filled.argmax(axis=1)].astype(float)
    flat = filled.max(axis=1) - np.where(np.isfinite(curves), curves, np.inf).min(axis=1) <= 0
    return np.where(known & ~flat, peaks, np.nan)
