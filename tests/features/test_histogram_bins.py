"""Histogram bins: order, edges, and equality with a search."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.features.histogram_bins import HistogramBins

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=50), st.integers(0, 6))
def test_a_bin_contains_its_values(values: list[float], bits: int) -> None:
    bins, x = HistogramBins(bits, -6, 5), torch.tensor(values)
    index = bins.of(x).long()
    low, high = bins.edges[index], bins.edges[index + 1]
    wide = x.double()
    assert bins.edges.shape == (bins.n + 1,) and bins.edges.diff().min() > 0
    about_zero = index == bins.per_sign
    inside = torch.where(x > 0, (low <= wide) & (wide < high), (low < wide) & (wide <= high))
    inside_zero = wide.abs() < 2.0**-6
    assert torch.where(about_zero, inside_zero, inside).all()


@given(st.lists(numbers, min_size=2, max_size=50))
def test_bins_keep_the_order(values: list[float]) -> None:
    x = torch.tensor(values).sort().values
    assert (HistogramBins().of(x).diff() >= 0).all()


@given(st.lists(numbers, min_size=1, max_size=50), st.integers(0, 6))
def test_positive_bins_are_the_upper_half(values: list[float], bits: int) -> None:
    bins, x = HistogramBins(bits, -6, 5), torch.tensor(values)
    assert torch.equal(bins.positive(x), (bins.of(x) - bins.per_sign).clamp_min(0))


def test_extreme_values() -> None:
    bins = HistogramBins()
    x = torch.tensor([-torch.inf, -1e30, -0.0, 0.0, 2.0**-10, 1e30, torch.inf])
    assert bins.of(x).tolist() == [0, 0, bins.per_sign, bins.per_sign, bins.per_sign + 1, bins.n - 1, bins.n - 1]
    assert bins.of(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.int32
