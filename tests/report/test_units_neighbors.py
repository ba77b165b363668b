"""Similar units: cosines of written directions, and shared strongest moments, against plain loops."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from hooked_whisper._support.mel_axis import band_of, frequency_ticks
from hooked_whisper.audio import mel_filters
from hooked_whisper.features import random_orthonormal
from hooked_whisper.features.scan import Examples, FeatureScan
from hooked_whisper.report.units.data import UnitStats
from hooked_whisper.report.units.labeling import sparseness
from hooked_whisper.report.units.neighbors import LEAST_COSINE, SAME_MOMENT, same_moments, similar_weights
from tests.findings.worlds import small_model

HOOK = "encoder.blocks.1.mlp.hook_post"


def test_neurons_with_similar_output_weights() -> None:
    model = small_model(0)
    weights = model.encoder.blocks[1].mlp.down.weight.T  # a view
    with torch.no_grad():
        weights[5] = 2 * weights[9] + 0.1 * weights[3]
    units = [3, 5, 9, 20]
    similar = similar_weights(model, HOOK, None, units)
    expected = torch.nn.functional.cosine_similarity(weights[5], weights[9], dim=0).detach()
    assert similar[1][0] == (9, pytest.approx(expected.item(), abs=1e-5)) and similar[2][0][0] == 5
    for place, unit in enumerate(units):
        assert all(other != unit and cosine >= LEAST_COSINE for other, cosine in similar[place])
    assert similar_weights(model, "encoder.blocks.1.hook_resid_post", None, units) == [()] * 4


def test_features_of_a_basis_are_compared_by_their_directions() -> None:
    basis = random_orthonormal(8)
    rows = basis.directions.clone()
    tilted = dataclasses.replace(basis, directions=rows)
    assert similar_weights(small_model(0), HOOK, tilted, range(8)) == [()] * 8  # orthogonal


def test_units_with_the_same_strongest_moments() -> None:
    rng = np.random.default_rng(0)
    recordings = np.stack([rng.permutation(12)[:6] for _ in range(5)]).astype(np.int32)
    positions = rng.integers(0, 30, recordings.shape).astype(np.int32)
    recordings[1], positions[1] = recordings[0], positions[0] + SAME_MOMENT
    recordings[4] = -1
    similar = same_moments(scan_of(recordings, positions), range(5))
    for a in range(5):
        shares = {}
        for b in range(5):
            pairs = itertools.product(range(6), range(6))
            same = {
                i
                for i, j in pairs
                if recordings[a, i] == recordings[b, j] >= 0 and abs(positions[a, i] - positions[b, j]) <= SAME_MOMENT
            }
            if a != b and len(same) / 6 >= 0.1:
                shares[b] = len(same) / 6
        assert dict(similar[a]) == pytest.approx(shares)
        assert [share for _, share in similar[a]] == sorted(shares.values(), reverse=True)
    assert dict(similar[0])[1] == 1.0 and similar[4] == ()


def test_only_units_with_a_page_are_similar() -> None:
    recordings, positions = np.zeros((4, 1), np.int32), np.zeros((4, 1), np.int32)
    assert same_moments(scan_of(recordings, positions), [3, 1]) == [((1, 1.0),), ((3, 1.0),)]


def test_sparseness_is_0_for_a_constant_and_near_1_for_a_single_moment() -> None:
    constant, rare = np.full(1000, 3.0), np.eye(1, 1000)[0]
    assert sparseness(stats(constant)) == pytest.approx(0, abs=1e-9)
    assert sparseness(stats(rare)) == pytest.approx(0.999)
    assert sparseness(stats(np.zeros(10))) == 0


@pytest.mark.parametrize("n_mels", [80, 128])
def test_frequencies_of_the_bands_are_those_of_whispers_filters(n_mels: int) -> None:
    filters = mel_filters(n_mels, torch.float32, torch.device("cpu"))
    hertz = torch.linspace(0, 8000, filters.shape[1])
    centers = ((filters @ hertz) / filters.sum(1))[n_mels // 2 :]  # narrow low bands fall between the FFT's frequencies
    for band, center in enumerate(centers.tolist(), start=n_mels // 2):
        assert band_of(center, n_mels) == pytest.approx(band, abs=0.2)
    ticks = frequency_ticks(n_mels)
    assert [tick.text for tick in ticks] == ["0.25", "0.5", "1", "2", "4", "8"]
    assert all(a.percent < b.percent <= 100 for a, b in itertools.pairwise(ticks))


def stats(x: np.ndarray) -> UnitStats:
    return UnitStats(0.5, float(x.mean()), float(x.var()), float(x.max()), float(x.min()))


def scan_of(recordings: np.ndarray, positions: np.ndarray) -> FeatureScan:
    n = len(recordings)
    zeros = np.zeros(n)
    examples = Examples(np.ones(recordings.shape, np.float32), recordings, positions)
    labels = tuple(map(str, range(n)))
    return FeatureScan(
        "units", HOOK, labels, 1, zeros, zeros, zeros, zeros, zeros, np.zeros((n, 1), np.int64), examples, {}
    )
