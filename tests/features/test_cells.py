"""Cells: order, edges, and that the bits say what a search would."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.features.histogram_bins import Cells

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=50), st.integers(0, 6))
def test_a_cell_holds_its_values(values: list[float], bits: int) -> None:
    cells, x = Cells(bits, -6, 5), torch.tensor(values)
    index = cells.of(x).long()
    low, high = cells.edges[index], cells.edges[index + 1]
    wide = x.double()
    assert cells.edges.shape == (cells.n + 1,) and cells.edges.diff().min() > 0
    about_zero = index == cells.per_sign
    inside = torch.where(x > 0, (low <= wide) & (wide < high), (low < wide) & (wide <= high))
    inside_zero = wide.abs() < 2.0**-6
    assert torch.where(about_zero, inside_zero, inside).all()


@given(st.lists(numbers, min_size=2, max_size=50))
def test_cells_keep_the_order(values: list[float]) -> None:
    x = torch.tensor(values).sort().values
    assert (Cells().of(x).diff() >= 0).all()


@given(st.lists(numbers, min_size=1, max_size=50), st.integers(0, 6))
def test_positive_cells_are_the_upper_half(values: list[float], bits: int) -> None:
    cells, x = Cells(bits, -6, 5), torch.tensor(values)
    assert torch.equal(cells.positive(x), (cells.of(x) - cells.per_sign).clamp_min(0))


def test_the_ends() -> None:
    cells = Cells()
    x = torch.tensor([-torch.inf, -1e30, -0.0, 0.0, 2.0**-10, 1e30, torch.inf])
    assert cells.of(x).tolist() == [0, 0, cells.per_sign, cells.per_sign, cells.per_sign + 1, cells.n - 1, cells.n - 1]
    assert cells.of(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.int32
