"""Top examples one per utterance, and their purity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.top_examples import ABSENT, TopExamples, purity

NAMES = ("SIL", "s", "z", "m")


@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 999))
def test_top_examples_equal_a_slow_search(utterances: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top, best = TopExamples(3, k, labelings=2), []
    for u in range(utterances):
        n = int(rng.integers(0, 6))
        x = torch.from_numpy(rng.integers(4, size=(n, 3))).float()
        ids, other = rng.integers(-1, 4, size=(2, n))
        top.add(x, ids, other)
        if n:
            position = x.argmax(0).numpy()
            best.append((x.max(0).values.numpy(), ids[position], other[position], u))
    for f in range(3):
        order = sorted(range(len(best)), key=lambda u: (-best[u][0][f], u))[:k]
        missing = k - len(order)
        assert top.values[f].tolist() == [best[u][0][f] for u in order] + [-np.inf] * missing
        assert top.ids(0)[f].tolist() == [best[u][1][f] for u in order] + [ABSENT] * missing
        assert top.utterances[f].tolist() == [best[u][3] for u in order] + [ABSENT] * missing
        assert top.ids(1)[f].tolist() == [best[u][2][f] for u in order] + [ABSENT] * missing


def test_purity() -> None:
    ids = np.array([[1, 1, 1, 2, -1], [2, 1, 2, 1, ABSENT], [0, 0, 0, 3, 3], [ABSENT] * 5])
    result = purity(ids, NAMES)
    assert result.labels == ("s", "s", "SIL", "") and result.hits.tolist() == [3, 2, 3, 0]
    assert result.n.tolist() == [5, 4, 5, 0]
    np.testing.assert_allclose(result.purity, [0.6, 0.5, 0.6, np.nan])
    low, high = result.interval
    assert (low[:3] < result.purity[:3]).all() and (result.purity[:3] < high[:3]).all()
    speech = purity(ids, NAMES, without=frozenset(["SIL"]))
    assert speech.labels == ("s", "s", "m", "") and speech.purity[2] == pytest.approx(0.4)
    grouped = purity(ids, NAMES, {"sibilants": {"s", "z"}, "nasals": {"m"}})
    assert grouped.labels == ("sibilants", "sibilants", "nasals", "") and grouped.purity[0] == pytest.approx(0.8)
    assert purity(ids, NAMES, {}).labels == ("",) * 4


def test_errors() -> None:
    with pytest.raises(PatchError, match="k is 0"):
        TopExamples(3, 0)
    with pytest.raises(PatchError, match="ids are"):
        purity(np.array([[4]]), NAMES)
