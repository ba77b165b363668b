"""Duplicates among decoder rows, and stability across seeds."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch

from hooked_whisper.errors import ArgumentError, ShapeError
from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.evals import decoder_rows
from sae_lens_audio.evals.decoder_rows import duplicates, nearest
from sae_lens_audio.evals.stability import match, stability


def drawn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_loop(a: torch.Tensor, b: torch.Tensor, skip_own: bool) -> list[float]:
    result = []
    for i, x in enumerate(a.double()):
        cosines = [float(x @ y / (x.norm() * y.norm())) for j, y in enumerate(b.double()) if not (skip_own and i == j)]
        result.append(max(cosines))
    return result


@pytest.mark.parametrize("in_memory", [1, 30, 1 << 22])
def test_nearest_cosines_equal_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(decoder_rows, "_IN_MEMORY", in_memory)
    a, b = drawn(17, 4), drawn(9, 4, seed=1)
    np.testing.assert_allclose(duplicates(a).nearest, by_loop(a, a, True), atol=1e-12)
    forth, back = nearest(a, b)
    np.testing.assert_allclose(forth, by_loop(a, b, False), atol=1e-12)
    np.testing.assert_allclose(back, by_loop(b, a, False), atol=1e-12)


def test_copies_are_counted() -> None:
    rows = torch.cat([torch.eye(6), 3 * torch.eye(6)[:2], -torch.eye(6)[2:3], torch.zeros(1, 6)])
    result = duplicates(rows)
    assert result.share == pytest.approx(4 / 10)  # two rows twice; an opposite is no copy, nor is nothing
    assert result.nearest[-1] == 0 and result.nearest.max() == 1 and result.median == 0


def test_stability_of_equal_and_different_features() -> None:
    base = drawn(40, 24)
    noisy = (base + 0.05 * drawn(40, 24, seed=1))[torch.randperm(40, generator=torch.Generator().manual_seed(2))]
    half = torch.cat([base[:20], drawn(20, 24, seed=3)])
    result = stability({"a": _with(base), "b": _with(noisy), "c": _with(half)})
    ab, ac, bc = result.pairs
    assert (ab.names, ac.names, bc.names) == (("a", "b"), ("a", "c"), ("b", "c"))
    assert ab.found_again == ab.assigned_again == 1 and ab.mean_max_cosine > 0.98
    assert 0.5 <= ac.assigned_again < 0.6 and 0.5 <= ac.found_again < 0.65
    assert result.itself.mean_max_cosine == pytest.approx(1) and result.itself.mean_assigned == pytest.approx(1)
    assert len(result.random) == 3 and result.mean("found_again", "random") < 0.2
    assert result.mean("mean_assigned") > result.mean("mean_assigned", "random")


def test_features_that_never_fire_are_left_out() -> None:
    base = drawn(30, 24)
    other = torch.cat([base[:10], drawn(20, 24, seed=9)])
    alive = np.arange(30) < 10
    result = stability({"a": _with(base), "b": _with(other)}, {"a": alive, "b": alive})
    assert result.pairs[0].found_again == 1 and len(result.pairs[0].assigned) == 10


def test_one_to_one_matching_is_optimal() -> None:
    a, b = drawn(4, 3), drawn(4, 3, seed=1)
    from itertools import permutations

    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    cosines = (unit[0] @ unit[1].T).numpy()
    best = max(sum(cosines[i, p[i]] for i in range(4)) for p in permutations(range(4)))
    assert match(("a", "b"), a, b).assigned.sum() == pytest.approx(best, abs=1e-5)


def test_sizes_may_differ_and_large_ones_are_not_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    result = match(("a", "b"), drawn(12, 5), drawn(7, 5, seed=1))
    assert len(result.nearest) == 19 and len(result.assigned) == 7
    monkeypatch.setattr(import_module("sae_lens_audio.evals.stability"), "LARGEST_ASSIGNMENT", 10)
    large = match(("a", "b"), drawn(12, 5), drawn(7, 5, seed=1))
    assert len(large.assigned) == 0 and np.isnan(large.mean_assigned) and np.isnan(large.assigned_again)
    np.testing.assert_array_equal(large.nearest, result.nearest)


def test_incomparable_directions_are_refused() -> None:
    a = _with(drawn(6, 4))
    with pytest.raises(ArgumentError, match="two SAEs"):
        stability({"a": a})
    with pytest.raises(ShapeError, match="cannot be compared"):
        stability({"a": a, "b": _with(drawn(6, 5))})
    with pytest.raises(ShapeError, match="alive"):
        stability({"a": a, "b": a}, {"a": np.ones(5, dtype=bool)})
    with pytest.raises(ArgumentError, match="no feature of b fires"):
        stability({"a": a, "b": a}, {"b": np.zeros(6, dtype=bool)})
    with pytest.raises(ShapeError, match="feature 3 is NaN"):
        rows = drawn(6, 4)
        rows[3] = torch.nan
        duplicates(rows)
    with pytest.raises(ShapeError, match="no other"):
        duplicates(drawn(1, 4))


def _with(rows: torch.Tensor) -> TopK:
    sae = TopK(TopKConfig(rows.shape[1], len(rows), k=2))
    with torch.no_grad():
        sae.W_dec.copy_(rows)
    return sae
