"""Averages around onsets: equality with a slow sum, additivity, and planted peaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.onsets import OnsetAverages, latency
from hooked_whisper.features.phones.position_labels import PositionLabels

NAMES = ("a", "b")


def labelled(ids: np.ndarray) -> PositionLabels:
    onset = np.append(True, ids[1:] != ids[:-1]) & (ids >= 0)
    return PositionLabels(NAMES, ids, np.where(ids >= 0, np.cumsum(onset), -1), np.zeros(len(ids), bool), onset)


def clip(seed: int, n: int = 90) -> tuple[torch.Tensor, PositionLabels]:
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.integers(-1, 2, size=n), rng.integers(2, 7, size=n))[:n]
    return torch.from_numpy(rng.normal(size=(n, 3))), labelled(ids)


def test_onset_means_equal_a_slow_sum_and_add() -> None:
    whole, first, second = (OnsetAverages(3, NAMES, 4, 6) for _ in range(3))
    rows_by_lag: dict[tuple[int, int], list[np.ndarray]] = {}
    for seed in range(4):
        x, labels = clip(seed)
        whole.add(x, labels)
        (first if seed < 2 else second).add(x, labels)
        for onset in np.flatnonzero(labels.onset):
            for lag in range(-4, 7):
                if 0 <= onset + lag < len(x):
                    rows_by_lag.setdefault((labels.ids[onset], lag), []).append(x[onset + lag].numpy())
    for (label, lag), rows in rows_by_lag.items():
        np.testing.assert_allclose(whole.mean[:, label, lag + 4], np.mean(rows, axis=0))
        assert whole.counts[label, lag + 4] == len(rows)
    np.testing.assert_allclose((first + second).mean, whole.mean)


def test_latency_finds_planted_peaks() -> None:
    averages = OnsetAverages(4, NAMES)
    for seed in range(20):
        _, labels = clip(seed, 200)
        x = torch.from_numpy(np.random.default_rng(seed).normal(size=(200, 4)) * 0.1)
        for feature, (label, lag, size) in enumerate([(0, 3, 5.0), (1, -2, 5.0), (0, 4, -5.0)]):
            onset = np.flatnonzero(labels.onset & (labels.ids == label)) + lag
            x[onset[(onset >= 0) & (onset < 200)], feature] += size
        x[:, 3] = 1
        averages.add(x, labels)
    lags = latency(averages, np.array([0, 1, 0, 0]), np.array([1, 1, -1, 1]))
    np.testing.assert_array_equal(lags, [3, -2, 4, np.nan])
    assert np.isnan(latency(averages, np.full(4, -1), np.ones(4, dtype=int))).all()
    assert np.isnan(latency(OnsetAverages(4, NAMES), np.zeros(4, dtype=int), np.ones(4, dtype=int))).all()


def test_errors() -> None:
    x, labels = clip(0)
    with pytest.raises(PatchError, match="names"):
        OnsetAverages(3, ("a",)).add(x, labels)
    with pytest.raises(PatchError, match="NaN"):
        OnsetAverages(3, NAMES).add(x * torch.nan, labels)
    with pytest.raises(PatchError, match="before is -1"):
        OnsetAverages(3, NAMES, -1)
    with pytest.raises(PatchError, match="different features, labels or lags"):
        OnsetAverages(3, NAMES) + OnsetAverages(2, NAMES)
