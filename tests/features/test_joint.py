"""Joint counts are exact and additive; errors name the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import AlignmentError, PatchError
from hooked_whisper.features.histogram_bins import HistogramBins
from hooked_whisper.features.phones import joint_histogram as joint
from hooked_whisper.features.phones.joint_histogram import COARSE, JointCounter, count

NAMES = ("SIL", "a", "b")


def rows(seed: int, n: int, features: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed)) * 3
    return x, np.random.default_rng(seed).integers(-1, 3, n)


@given(st.integers(0, 60), st.integers(0, 999), st.integers(1, 200))
def test_every_row_is_counted_once(n: int, seed: int, chunk: int) -> None:
    x, ids = rows(seed, n)
    before, joint._CHUNK = joint._CHUNK, chunk
    try:
        joint_counts = count(x, ids, NAMES, HistogramBins(2, -3, 4))
    finally:
        joint._CHUNK = before
    slow = np.zeros((4, joint_counts.bins.n, 3), dtype=int)
    for row, label in zip(joint_counts.bins.of(x).numpy(), ids, strict=True):
        for feature, bin in enumerate(row):
            if label >= 0:
                slow[feature, bin, label] += 1
    np.testing.assert_array_equal(joint_counts.counts, slow)
    np.testing.assert_array_equal(joint_counts.totals, slow.sum(2))
    assert joint_counts.rows == (ids >= 0).sum() and joint_counts.counts.dtype == np.int32


@given(st.integers(0, 60), st.integers(0, 999))
def test_parts_sum_to_the_whole(border: int, seed: int) -> None:
    x, ids = rows(seed, 60)
    whole, parts = count(x, ids, NAMES), count(x[:border], ids[:border], NAMES) + count(x[border:], ids[border:], NAMES)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_array_equal(whole.totals, parts.totals)
    counter = JointCounter(4, NAMES)
    for part in (slice(0, border), slice(border, None)):
        counter.add_bins(counter.bins_of(x[part]), ids[part])
    np.testing.assert_array_equal(whole.counts, counter.result().counts)


def test_tokens() -> None:
    ids = np.array([0, 0, 1, 1, -1, 1, 2])
    assert count(torch.zeros(7, 1), ids, NAMES).tokens.tolist() == [1, 2, 1]
    counter = JointCounter(1, NAMES)
    counter.add(torch.zeros(7, 1), ids, np.array([1, 3, 1]))
    assert (counter.result() + counter.result()).tokens.tolist() == [2, 6, 2]


def test_classes_may_overlap() -> None:
    x, ids = rows(0, 500)
    joint_counts = count(x, ids, NAMES)
    groups = joint_counts.grouped({"both": {"a", "b"}, "b": {"b"}})
    np.testing.assert_array_equal(groups.counts[:, :, 0], joint_counts.counts[:, :, 1:].sum(2))
    np.testing.assert_array_equal(groups.counts[:, :, 1], joint_counts.counts[:, :, 2])
    np.testing.assert_array_equal(groups.totals, joint_counts.totals)
    assert groups.tokens.tolist() == [joint_counts.tokens[1:].sum(), joint_counts.tokens[2]] and groups.names == (
        "both",
        "b",
    )
    with pytest.raises(AlignmentError, match="not a label"):
        joint_counts.grouped({"c": {"c"}})


def test_errors() -> None:
    counter = JointCounter(2, NAMES)
    with pytest.raises(PatchError, match="feature 1 is NaN"):
        counter.add(torch.tensor([[0.0, torch.nan]]), np.array([0]))
    with pytest.raises(PatchError, match="feature 0 is NaN or infinite"):
        counter.add(torch.tensor([[torch.inf, 0.0]]), np.array([0]))
    with pytest.raises(PatchError, match="3 features"):
        counter.add(torch.zeros(1, 3), np.array([0]))
    for bad in (3, -2):
        with pytest.raises(PatchError, match="ids are"):
            counter.add(torch.zeros(1, 2), np.array([bad]))
    assert counter.result().rows == 0
    with pytest.raises(PatchError, match="same names and bins"):
        counter.result() + JointCounter(2, ("a",), COARSE).result()
