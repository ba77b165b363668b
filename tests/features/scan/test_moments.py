"""Moments and ranges equal numpy's on all values at once."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.scan import HISTOGRAM_BINS
from hooked_whisper.features.scan.moments import Moments, add_exactly
from hooked_whisper.features.scan.ranges import make_ranges
from hooked_whisper.features.scan.state import WindowFeatures
from tests.features.scan.streams import stream

N_BINS = 1 + HISTOGRAM_BINS.per_sign


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 99), st.sampled_from([0.0, 300.0]))
def test_moments_equal_a_direct_computation(sizes: list[int], seed: int, far: float) -> None:
    moments = Moments(3, HISTOGRAM_BINS)
    windows = [WindowFeatures(s.x + far, s.recording, 0, s.priority) for s in stream(sizes, 3, seed)]
    for window in windows:
        moments.add(window, window.x.amax(0), window.x.amin(0))
    x = torch.cat([s.x for s in windows]).double().numpy()
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.variance, x.var(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(moments.largest, x.max(0).astype(np.float32))
    np.testing.assert_array_equal(moments.smallest, x.min(0).astype(np.float32))
    assert moments.histogram.sum(1).tolist() == [len(x)] * 3
    for feature in range(3):
        bins = HISTOGRAM_BINS.positive(torch.from_numpy(x[:, feature])).numpy()
        np.testing.assert_array_equal(moments.histogram[feature], np.bincount(bins, minlength=N_BINS))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=8), st.integers(0, 99), st.integers(0, 8), st.data())
def test_moments_do_not_depend_on_order_or_parts(sizes: list[int], seed: int, cut: int, data: st.DataObject) -> None:
    windows = stream(sizes, 3, seed)
    shuffled = data.draw(st.permutations(windows))
    whole, left, right = (Moments(3, HISTOGRAM_BINS) for _ in range(3))
    for moments, part in ((whole, windows), (left, shuffled[:cut]), (right, shuffled[cut:])):
        for window in part:
            moments.add(window, window.x.amax(0), window.x.amin(0))
    left.merge(right)
    for name in ("mean", "variance", "largest", "smallest", "histogram"):
        assert torch.equal(getattr(left, name), getattr(whole, name)), name


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_sums_in_integers_are_exact(values: list[float]) -> None:
    number = torch.zeros(2, 1, dtype=torch.int64)
    for value in values:
        add_exactly(number, torch.tensor([value], dtype=torch.float64))
    units = sum(Fraction(math.floor(v)) * 2**52 + math.floor((Fraction(v) - math.floor(v)) * 2**52) for v in values)
    total = (int(number[0]) << 52) + int(number[1])
    assert abs(total - units) <= len(values)  # v - floor(v) is rounded once where v is negative and tiny


def test_too_large_sums_are_an_error() -> None:
    huge = WindowFeatures(torch.full((4, 2), 3e10), 0, 0, torch.arange(4))
    with pytest.raises(HookedWhisperError, match="too large"):
        Moments(2, HISTOGRAM_BINS).add(huge, huge.x.amax(0), huge.x.amin(0))


def test_counts_exceed_32_bits() -> None:
    moments = Moments(1, HistogramBins(2, -2, 2))
    moments._counted[3] = 2**32 - 1
    window = stream([5], 1)[0]
    for _ in range(3):
        moments.add(window, window.x.amax(0), window.x.amin(0))
    assert moments.histogram.sum() == 2**32 + 14


@given(st.integers(0, 200), st.integers(1, 12), st.sampled_from(["equal width", "equal count"]))
def test_ranges_divide_active_positions(seed: int, n: int, kind: str) -> None:
    x = stream([400], 4, seed)[0].x
    x[:, 3] = -1.0  # never active
    histogram = torch.stack([torch.bincount(HISTOGRAM_BINS.positive(c), minlength=N_BINS) for c in x.T])
    edges, counts = make_ranges(histogram, HISTOGRAM_BINS, kind, n)  # type: ignore[arg-type]
    assert torch.isnan(edges[3]).all() and counts[3].sum() == 0
    for feature in range(3):
        active = x[:, feature][x[:, feature] >= 2.0**-14].double()
        low, high = edges[feature, :-1], edges[feature, 1:]
        assert (low <= high).all() and (low[0] <= active.min()) and (active.max() < high[-1])
        inside = ((active[:, None] >= low) & (active[:, None] < high)).sum(0)
        assert torch.equal(inside, counts[feature]) and counts[feature].sum() == len(active)
        if kind == "equal width":
            even = torch.linspace(0, 1, n + 1, dtype=torch.float64)[1:-1] * high[-1]
            torch.testing.assert_close(edges[feature, 1:-1], even, rtol=1 / 16, atol=0.0)
        else:
            crowd = histogram[feature, 1:].max()
            assert (counts[feature] - len(active) / n).abs().max() <= crowd
