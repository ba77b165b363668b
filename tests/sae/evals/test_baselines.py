"""Sparse baselines: the k largest coefficients of centered activations, the best code an orthonormal basis has."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from hooked_whisper.errors import ArgumentError, ShapeError
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio import TopK, TopKConfig
from sae_lens_audio.architectures import DecodableBasis
from sae_lens_audio.evals.baselines import KLargest, RandomFeatures, linear_bases, sparse_baselines
from sae_lens_audio.evals.reconstruction import ReconstructionScores


def rows(n: int = 300, d: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator)


def test_no_other_k_coefficients_are_better() -> None:
    x = rows(20)
    for basis in linear_bases(x).values():
        code = KLargest(basis, 2)
        errors = (code.decode(code.encode(x)) - x).square().sum(1)
        whole = basis.encode(x)
        for pair in combinations(range(6), 2):
            other = torch.zeros_like(whole)
            other[:, pair] = whole[:, pair]
            assert ((basis.decode(other) - x).square().sum(1) >= errors - 1e-3).all()


def test_equal_l0_and_order_of_the_baselines() -> None:
    x = rows(2000)
    bases = linear_bases(x)
    assert list(bases) == ["neurons", "pca", "random"]
    scores = {name: ReconstructionScores.of(code, x) for name, code in sparse_baselines(bases, 2.4).items()}
    assert {s.l0 for s in scores.values()} == {2.0}
    assert scores["pca"].explained_variance > scores["random"].explained_variance > 0
    assert scores["neurons"].explained_variance > 0  # centered: without the mean it would be far below
    all_of_it = sparse_baselines(bases, 99)["random"]
    assert all_of_it.k == 6 and ReconstructionScores.of(all_of_it, x).explained_variance == pytest.approx(1)
    assert sparse_baselines(bases, 0)["pca"].k == 1


def test_baselines_work_where_saes_do() -> None:
    x = rows()
    code = KLargest(linear_bases(x)["pca"], 3)
    assert isinstance(code, FeatureBasis) and isinstance(code, DecodableBasis)
    assert code.n_features == code.d_in == len(code.labels) == 6
    assert code.encode(x.view(10, 30, 6)).shape == (10, 30, 6)
    assert torch.equal(code.encode(x[:7]), code.encode(x)[:7])


def test_random_features() -> None:
    mean = torch.arange(6.0)
    basis = RandomFeatures.like(50, mean, seed=1)
    assert isinstance(basis, FeatureBasis) and basis.n_features == len(basis.labels) == 50
    torch.testing.assert_close(basis.directions.norm(dim=1), torch.ones(50))
    features = basis.encode(mean + torch.eye(6))
    torch.testing.assert_close(features, basis.directions.T.relu())
    assert torch.equal(RandomFeatures.like(50, mean, seed=1).directions, basis.directions)
    start = TopK(TopKConfig(6, 50, k=2), seed=1).W_dec
    assert not torch.isclose(start, basis.directions, atol=1e-3).any(1).all()  # no SAE's first weights


def test_errors() -> None:
    basis = linear_bases(rows())["pca"]
    for k in (0, 7, True):
        with pytest.raises(ArgumentError, match="k is 1 to 6"):
            KLargest(basis, k)
    with pytest.raises(ShapeError, match="wide"):
        KLargest(basis, 2).encode(torch.zeros(3, 5))
    with pytest.raises(ShapeError, match="training row 3"):
        bad = rows()
        bad[3, 0] = torch.nan
        linear_bases(bad)
