"""Statistics on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings.core.statistics import (
    auc,
    bootstrap,
    cluster_rate,
    edit_distance,
    kl_rows,
    matrix_regression,
    peak_offset,
    regression_coefficients,
    spearman,
    spearman_rows,
)


def test_kl_of_known_distributions() -> None:
    p = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert kl_rows(p, np.log(np.maximum(p, 1e-300))) == pytest.approx([0, 0])
    uniform = np.full((2, 3), -math.log(3))
    assert kl_rows(p, uniform) == pytest.approx([math.log(3) - math.log(2), math.log(3)])


def test_kl_is_infinite_where_the_model_has_probability_zero() -> None:
    assert kl_rows(np.array([[1.0, 0.0]]), np.array([[-np.inf, 0.0]]))[0] == np.inf


def test_spearman() -> None:
    x = np.array([1.0, 2, 3, 4])
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert math.isnan(spearman(x, np.ones(4)))
    assert math.isnan(spearman(x[:2], x[:2]))


def test_spearman_rows_matches_spearman() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (30, 6)).astype(float), rng.random((30, 6))
    x[0] = 1.0
    each = [spearman(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman_rows(x, y), each)
    assert math.isnan(spearman_rows(x, y)[0]) and np.isnan(spearman_rows(x[:, :2], y[:, :2])).all()


scores = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12).map(np.array)


@given(scores, scores, st.data())
def test_auc_is_the_share_of_won_pairs(positive: np.ndarray, negative: np.ndarray, data: st.DataObject) -> None:
    wins = (positive[:, None] > negative).astype(float) + 0.5 * (positive[:, None] == negative)
    assert auc(positive, negative) == pytest.approx(wins.mean())
    weights = st.integers(0, 3).map(float)
    wp = np.array([data.draw(weights) for _ in positive])
    wn = np.array([data.draw(weights) for _ in negative])
    w = wp[:, None] * wn[None, :]
    if w.sum() > 0:
        assert auc(positive, negative, wp, wn) == pytest.approx((wins * w).sum() / w.sum())
    else:
        assert math.isnan(auc(positive, negative, wp, wn))


def test_edit_distance() -> None:
    assert edit_distance(("r", "ʌ", "g"), ("m", "ʌ", "g")) == 1
    assert edit_distance(("t", "i"), ("t", "i", "m")) == 1
    assert edit_distance((), ("a", "b")) == 2
    assert edit_distance(tuple("kitten"), tuple("sitting")) == 3


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_a_distance(a: str, b: str) -> None:
    d = edit_distance(tuple(a), tuple(b))
    assert d == edit_distance(tuple(b), tuple(a))
    assert (d == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))


def _similarity(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = rng.standard_normal((n, 4))
    return rows @ rows.T


def test_matrix_regression_finds_true_predictors_only() -> None:
    rng = np.random.default_rng(0)
    sound, context, nothing = (_similarity(rng, 40) for _ in range(3))
    y = 0.6 * sound / sound.std() + 0.4 * context / context.std() + 0.3 * rng.standard_normal((40, 40))
    y = (y + y.T) / 2
    regression = matrix_regression(y, {"sound": sound, "context": context, "nothing": nothing}, rng, 200)
    assert regression.p_values[0] < 0.01 and regression.p_values[1] < 0.01 and regression.p_values[2] > 0.01
    assert regression.coefficients[0] > regression.coefficients[1] > abs(regression.coefficients[2])
    assert 0.5 < regression.r_squared < 1
    again = regression_coefficients(y, {"sound": sound, "context": context, "nothing": nothing}, np.arange(40))
    assert again == pytest.approx(regression.coefficients)


def test_permutation_p_values_are_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(1)
    p = [matrix_regression(_similarity(rng, 15), {"x": _similarity(rng, 15)}, rng, 60).p_values[0] for _ in range(60)]
    assert 0.35 < np.mean(p) < 0.65


def test_bootstrap_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(400)
    samples = bootstrap(400, lambda i: float(x[i].mean()), rng, 500)
    assert samples.std() == pytest.approx(1 / 20, rel=0.2)


def test_cluster_rate_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    hits = np.repeat(rng.random(50) < 0.5, 10).astype(float)
    groups = np.repeat(np.arange(50), 10)
    together = cluster_rate(hits, np.ones(500), groups, rng)
    apart = cluster_rate(hits, np.ones(500), np.arange(500), rng)
    assert together.value == apart.value == pytest.approx(hits.mean())
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert cluster_rate(np.zeros(1), np.zeros(1), np.zeros(1, int), rng).value is None


def test_peak_offset() -> None:
    offsets = np.array([-2.0, -1, 0, 1, 2])
    assert peak_offset(offsets, np.array([0, 0.2, 1, 0.2, 0])) == 0
    assert peak_offset(offsets, np.array([0.0, 1, 1, 0, 0])) == -0.5
    assert math.isnan(peak_offset(offsets, np.zeros(5)))
    assert peak_offset(offsets, np.array([np.nan, 0.1, 0.3, 0.9, np.nan])) == 1
