"""Activation ranges: every row is counted once, entropies are comparable, confusions are tested against chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.joint_histogram import count
from hooked_whisper.features.phones.measures import entropy
from hooked_whisper.features.phones.polyphony import (
    PhoneRanges,
    active_ranges,
    confusions,
    ranges_of_examples,
    signed_ranges,
)
from hooked_whisper.protocols import SILENCE

NAMES = (SILENCE, "s", "z", "ʃ", "m", "n", "ɑ", "i")


def ranges(counts: np.ndarray, base: np.ndarray | None = None) -> PhoneRanges:
    n = len(NAMES)
    shares = np.full(n, 1 / n) if base is None else base
    return PhoneRanges(NAMES, counts, shares, np.full((len(counts), counts.shape[1] + 1), np.nan))


@given(st.integers(0, 999))
def test_every_active_row_is_in_one_range(seed: int) -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1.0, 5, 0.1, 0])
    ids = np.random.default_rng(seed).integers(len(NAMES), size=300)
    joint = count(x, ids, NAMES)
    active = (joint.bins.of(x) > joint.bins.per_sign).numpy().sum(0)
    for result in (active_ranges(joint, "deciles"), active_ranges(joint, "width")):
        np.testing.assert_array_equal(result.n.sum(1), active)
        np.testing.assert_allclose(result.base, np.bincount(ids, minlength=len(NAMES)) / 300)
        for edges in result.edges[:3]:
            assert (np.diff(edges[np.isfinite(edges)]) >= 0).all()
    np.testing.assert_array_equal(signed_ranges(joint).n.sum(1), 300)
    assert np.isnan(active_ranges(joint, "width").entropy[3]).all() and active_ranges(joint, "width").majority[3] == -1


def test_equal_width_and_deciles() -> None:
    x = torch.linspace(0.0, 10, 4001)[1:, None]
    joint = count(x, np.zeros(4000, dtype=int), NAMES)
    wide, tenths = active_ranges(joint, "width"), active_ranges(joint, "deciles")
    np.testing.assert_allclose(wide.edges[0, :5], [0, 2.2, 4.4, 6.6, 8.8], atol=0.5)  # the last bin is 10 to 11
    assert (np.abs(tenths.n[0] - 400) <= 300).all() and tenths.n.sum() >= 3990
    fine = active_ranges(count(x, np.zeros(4000, dtype=int), NAMES, type(joint.bins)(6, -7, 9)), "deciles")
    assert (np.abs(fine.n[0] - 400) <= 60).all()


@given(st.integers(0, 999))
def test_equal_entropy_is_the_mean_over_all_draws(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(3, size=7)
    counts = np.bincount(labels, minlength=len(NAMES))[None, None]
    draws = [np.bincount(labels[list(c)], minlength=8) for c in itertools.combinations(range(7), 4)]
    np.testing.assert_allclose(ranges(counts).equal_entropy(4)[0, 0], entropy(np.array(draws)).mean())
    assert np.isnan(ranges(counts).equal_entropy(8)).all()
    np.testing.assert_allclose(ranges(counts).equal_entropy(7)[0, 0], entropy(counts)[0, 0])


def test_no_trend_where_labels_do_not_depend_on_activation() -> None:
    """Ranges of 2,000 down to 30 examples: plug-in entropy decreases by its bias, equal entropy does not.

    The skewed entropies of small samples leave a small positive trend, which is conservative."""
    rng = np.random.default_rng(0)
    base = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    sizes = [2000, 700, 200, 70, 30]
    result = ranges(np.stack([rng.multinomial(n, base, size=400) for n in sizes], axis=1), base)
    plain = np.mean([spearmanr(range(5), row).statistic for row in entropy(result.counts)])
    assert plain < -0.4 and -0.05 < result.trend().mean() < 0.12
    equal = ranges(rng.multinomial(100, base, size=(400, 5)), base)
    assert abs(equal.trend().mean()) < 0.08


def test_trend_is_negative_with_increasing_selectivity() -> None:
    rng = np.random.default_rng(0)
    shares = [np.append(1 - 7 * p, np.full(7, p)) for p in (0.12, 0.08, 0.05, 0.02, 0.005)]
    result = ranges(np.stack([rng.multinomial(200, p, size=50) for p in shares], axis=1))
    assert (result.trend() < -0.85).all() and (ranges(result.counts[:, ::-1]).trend() > 0.85).all()
    np.testing.assert_allclose(result.effective[:, 0], 8, atol=1)
    assert (result.purity[:, -1] > 0.9).all() and (result.majority == 0).all()


@given(st.lists(st.lists(st.integers(0, 3) | st.none(), min_size=5, max_size=5), min_size=1, max_size=8))
def test_trend_equals_scipy(rows: list[list[int | None]]) -> None:
    from hooked_whisper.features.phones.polyphony import spearman_with_order

    values = np.array([[np.nan if x is None else float(x) for x in row] for row in rows])
    result = spearman_with_order(values)
    for row, correlation in zip(values, result, strict=True):
        there = np.isfinite(row)
        if there.sum() < 3 or np.ptp(row[there]) == 0:
            assert np.isnan(correlation)
        else:
            np.testing.assert_allclose(correlation, spearmanr(np.flatnonzero(there), row[there]).statistic, atol=1e-9)


def test_proportions_intervals_and_the_published_counts() -> None:
    counts = np.array([[[5, 0, 0, 15, 0, 0, 0, 0], [0, 0, 0, 2, 8, 0, 0, 0], [0] * 8]])
    result = ranges(counts)
    low, high = result.interval
    assert result.proportions[0, 0, 3] == 0.75 and np.isnan(result.proportions[0, 2]).all()
    assert (low[0, :2] <= result.proportions[0, :2]).all() and (result.proportions[0, :2] <= high[0, :2]).all()
    labels, per_range = result.published_counts(2)
    assert labels.tolist() == [[3, 4]] and per_range.tolist() == [[[15, 0], [2, 8], [0, 0]]]
    assert result.majority.tolist() == [4]


def test_examples_make_ranges() -> None:
    ids = np.array([[[1, 1, -1], [2, 3, 3]], [[0, 0, 0], [-2, -2, -1]]])
    result = ranges_of_examples(ids, NAMES, np.full(8, 0.125))
    assert result.counts[0].tolist() == [[0, 2, 0, 0, 0, 0, 0, 0], [0, 0, 1, 2, 0, 0, 0, 0]]
    assert result.n.tolist() == [[2, 3], [3, 0]]
    with pytest.raises(PatchError, match="9, expected"):
        ranges_of_examples(ids + 6, NAMES, np.full(8, 0.125))


def sibilants(near: bool, n_features: int, seed: int) -> PhoneRanges:
    """Features for s that confuse it with its neighbors, or with three random labels each."""
    rng = np.random.default_rng(seed)
    names = (SILENCE, *"pbtdkɡmnŋfvθðszʃʒlɹjwhiuɑæ")
    s, counts = names.index("s"), np.zeros((n_features, 2, len(names)), dtype=np.int64)
    others = [i for i in range(1, len(names)) if i != s]
    for row in counts:
        picked = [names.index(x) for x in "zʃθ"] if near else rng.choice(others, 3, replace=False)
        row[0, picked] = rng.integers(5, 30, size=3)
        row[1, s] = 20
    return PhoneRanges(names, counts, np.full(len(names), 1 / len(names)), np.full((n_features, 3), np.nan))


def test_near_confusions_are_significant() -> None:
    near = confusions(sibilants(True, 20, 0), np.random.default_rng(1), 300)
    assert (near.p_value < 0.05).all() and near.pooled_p < 0.05 and (near.distance < near.expected).all()
    chance = confusions(sibilants(False, 300, 0), np.random.default_rng(1), 300)
    assert 0.01 < (chance.p_value <= 0.05).mean() < 0.09 and abs(chance.p_value.mean() - 0.5) < 0.05
    np.testing.assert_allclose(chance.distance.mean(), chance.expected.mean(), atol=0.02)


def test_frequent_neighbors_are_not_significant() -> None:
    """Confusions in proportion to base rates are at chance, even if frequent labels are near."""
    result = sibilants(True, 4, 0)
    times = np.ones(len(result.names), dtype=np.int64)
    times[[result.names.index(x) for x in "zʃ"]] = 40
    counts, base = result.counts.copy(), times / times.sum()
    counts[:, 0] = 5 * times
    tested = confusions(PhoneRanges(result.names, counts, base, result.edges), np.random.default_rng(0), 200)
    assert (tested.p_value > 0.5).all()


def test_features_without_confusions_are_nan() -> None:
    counts = np.zeros((3, 2, 8), dtype=np.int64)
    counts[0, :, 0] = 5  # silence
    counts[1, :, 1] = 5  # s and nothing else
    result = confusions(ranges(counts), np.random.default_rng(0), 10)
    assert np.isnan(result.distance).all() and np.isnan(result.p_value).all() and np.isnan(result.pooled_p)


def test_errors(unchecked: None) -> None:
    joint = count(torch.ones(5, 1), np.zeros(5, dtype=int), NAMES)
    with pytest.raises(PatchError, match="deciles"):
        active_ranges(joint, "thirds")  # type: ignore[arg-type]
    with pytest.raises(PatchError, match="n_ranges is 0"):
        active_ranges(joint, "width", 0)
    with pytest.raises(PatchError, match="n is 1"):
        active_ranges(joint, "width").trend(1)


def test_ranges_show_themselves_and_lose_their_counts() -> None:
    ranges = ranges_of_examples(np.zeros((2, 3, 4), dtype=np.int64), ("s", "t"), np.array([0.5, 0.5]))
    assert repr(ranges).startswith("PhoneRanges")
    assert np.array_equal(ranges.without_counts().label_counts, ranges.label_counts)
