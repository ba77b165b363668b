"""Moments and ranges against numpy on everything at once."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.features.cells import Cells
from hooked_whisper.features.scanning import HISTOGRAM_CELLS
from hooked_whisper.features.scanning.moments import Moments
from hooked_whisper.features.scanning.ranges import make_ranges
from hooked_whisper.features.scanning.state import Stretch
from tests.features.scanning.streams import stream

N_CELLS = 1 + HISTOGRAM_CELLS.per_sign


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 99), st.sampled_from([0.0, 300.0]))
def test_moments_are_those_of_everything(sizes: list[int], seed: int, far: float) -> None:
    found = Moments(3, HISTOGRAM_CELLS)
    stretches = [Stretch(s.x + far, s.recording, 0, s.priority) for s in stream(sizes, 3, seed)]
    for one in stretches:
        found.add(one, one.x.amax(0), one.x.amin(0))
    x = torch.cat([s.x for s in stretches]).double().numpy()
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.variance, x.var(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.largest, x.max(0).astype(np.float32))
    np.testing.assert_array_equal(found.smallest, x.min(0).astype(np.float32))
    assert found.histogram.sum(1).tolist() == [len(x)] * 3
    for feature in range(3):
        cells = HISTOGRAM_CELLS.positive(torch.from_numpy(x[:, feature])).numpy()
        np.testing.assert_array_equal(found.histogram[feature], np.bincount(cells, minlength=N_CELLS))


def test_counts_beyond_32_bits_are_kept() -> None:
    found = Moments(1, Cells(2, -2, 2))
    found._recent[3] = 2**30
    found._unflushed += 2**30
    stretch = stream([5], 1)[0]
    for _ in range(3):
        found.add(stretch, stretch.x.amax(0), stretch.x.amin(0))
    assert found.histogram.sum() == 2**30 + 15 and found._recent.sum() < 15


@given(st.integers(0, 200), st.integers(1, 12), st.sampled_from(["equal width", "equal count"]))
def test_ranges_share_out_what_is_active(seed: int, n: int, kind: str) -> None:
    x = stream([400], 4, seed)[0].x
    x[:, 3] = -1.0  # never active
    histogram = torch.stack([torch.bincount(HISTOGRAM_CELLS.positive(c), minlength=N_CELLS) for c in x.T])
    edges, counts = make_ranges(histogram, HISTOGRAM_CELLS, kind, n)  # type: ignore[arg-type]
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
