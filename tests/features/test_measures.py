"""Measures on histograms equal their definitions, for any monotone scale."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from hooked_whisper.features.phones.joint_histogram import count
from hooked_whisper.features.phones.measures import (
    average_precision,
    entropy,
    information,
    miller_madow,
    quantile_bins,
    rebin,
    wilson,
)
from tests.features.dense import best_thresholds, detections, roc_auc

NAMES = ("a", "b", "c")


def histogram(seed: int, n: int = 60, bins: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values (bin numbers) [feature, row] and labels, with their histograms."""
    rng = np.random.default_rng(seed)
    values, ids = rng.integers(bins, size=(2, n)), rng.integers(3, size=n)
    hits = np.zeros((2, bins, 3), dtype=np.int32)
    for f in range(2):
        np.add.at(hits, (f, values[f], ids), 1)
    return values, ids, hits, hits.sum(2)


@given(st.integers(0, 10_000), st.integers(1, 80))
def test_auc_equals_the_share_of_pairs_won(seed: int, n: int) -> None:
    values, ids, hits, totals = histogram(seed, n)
    result = roc_auc(hits, totals)
    for f in range(2):
        for p in range(3):
            first, other = values[f, ids == p], values[f, ids != p]
            if not len(first) or not len(other):
                assert np.isnan(result[f, p])
                continue
            wins = (first[:, None] > other).mean() + (first[:, None] == other).mean() / 2
            np.testing.assert_allclose(result[f, p], wins)
    np.testing.assert_allclose(roc_auc(hits[:, ::-1], totals[:, ::-1]), 1 - result)


@given(st.integers(0, 10_000), st.integers(1, 80))
def test_average_precision_and_best_f1_equal_a_slow_search(seed: int, n: int) -> None:
    values, ids, hits, totals = histogram(seed, n)
    ap, (f1, bin) = average_precision(hits, totals), best_thresholds(hits, totals)
    true, result = detections(hits, totals, bin)
    for f in range(2):
        for p in range(3):
            area, before, best = 0.0, 0.0, 0.0
            for threshold in range(8, -1, -1):
                hit = int(((values[f] >= threshold) & (ids == p)).sum())
                all_ = int((values[f] >= threshold).sum())
                recall = hit / max(1, (ids == p).sum())
                area += (recall - before) * (hit / all_ if all_ else 0)
                before, best = recall, max(best, 2 * hit / max(1, all_ + (ids == p).sum()))
            if (ids == p).any():
                np.testing.assert_allclose(ap[f, p], area)
            np.testing.assert_allclose(f1[f, p], best)
            assert true[f, p] == ((values[f] >= bin[f, p]) & (ids == p)).sum()
            assert result[f, p] == (values[f] >= bin[f, p]).sum()


@given(st.integers(0, 1000), st.integers(-3, 3))
def test_monotone_scaling_changes_nothing(seed: int, octaves: int) -> None:
    """A power of two shifts values by whole bins, and measures depend on the ranks of bins only."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)).clamp(0.0625, 8)
    ids = np.random.default_rng(seed).integers(3, size=200)
    first, second = count(x, ids, NAMES), count(x * 2.0**octaves, ids, NAMES)
    for measure in (roc_auc, average_precision):
        np.testing.assert_allclose(measure(first.counts, first.totals), measure(second.counts, second.totals))
    np.testing.assert_allclose(
        best_thresholds(first.counts, first.totals)[0], best_thresholds(second.counts, second.totals)[0]
    )


def test_chance_levels() -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(3, size=4000, p=[0.7, 0.2, 0.1])
    result = count(torch.randn(4000, 60, generator=torch.Generator().manual_seed(0)), ids, NAMES)
    assert np.abs(roc_auc(result.counts, result.totals).mean(0) - 0.5).max() < 0.01
    np.testing.assert_allclose(average_precision(result.counts, result.totals).mean(0), [0.7, 0.2, 0.1], atol=0.02)
    joint = rebin(result.counts, quantile_bins(result.totals), 10)
    plain = entropy(joint.sum(1)) + entropy(joint.sum(2)) - entropy(joint.reshape(60, -1))
    assert plain.mean() > 1.5e-3 and abs(information(joint).mean()) < 2e-4


def test_information_of_a_copy_is_the_entropy() -> None:
    ids = np.random.default_rng(0).integers(3, size=9000)
    result = count(torch.from_numpy(ids)[:, None].float() + 1, ids, NAMES)
    joint = rebin(result.counts, quantile_bins(result.totals), 10)
    np.testing.assert_allclose(information(joint), np.log(3), atol=1e-3)


@given(st.integers(0, 1000))
def test_rebinning_keeps_every_row_and_the_order(seed: int) -> None:
    _, _, hits, totals = histogram(seed)
    range_of_bin = quantile_bins(totals, 4)
    assert (np.diff(range_of_bin, axis=1) >= 0).all() and range_of_bin.min() >= 0 and range_of_bin.max() <= 3
    np.testing.assert_array_equal(rebin(hits, range_of_bin, 4).sum(1), hits.sum(1))
    slow = np.stack([[hits[f][range_of_bin[f] == b].sum(0) for b in range(4)] for f in range(2)])
    np.testing.assert_array_equal(rebin(hits, range_of_bin, 4), slow)


def test_miller_madow_corrects_most_of_the_bias() -> None:
    drawn = np.random.default_rng(0).multinomial(60, np.full(10, 0.1), size=2000)
    assert np.log(10) - entropy(drawn).mean() > 0.06
    assert abs(np.log(10) - miller_madow(drawn).mean()) < 0.01
    assert np.isnan(entropy(np.zeros((1, 3)))).all()


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_equals_scipy(hits: int, more: int) -> None:
    n = hits + more
    want = binomtest(hits, n).proportion_ci(method="wilson")
    low, high = wilson(np.array([hits]), np.array([n]))
    np.testing.assert_allclose([low[0], high[0]], [want.low, want.high], atol=1e-12)
    assert [float(x[0]) for x in wilson(np.array([0]), np.array([0]))] == [0, 1]
