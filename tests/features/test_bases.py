"""Bases: orthonormality, known directions are recovered, and patching accepts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import PatchError
from hooked_whisper.features import BothSigns, LinearBasis, axes, kmeans, pca, random_orthonormal
from hooked_whisper.patching import LogitDifference, RunInputs, make_grid, run_patches, subspaces_of
from hooked_whisper.protocols import FeatureBasis


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_a_full_basis_reconstructs_exactly(d: int, seed: int) -> None:
    basis = random_orthonormal(d, seed=seed)
    x = torch.randn(3, d, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(basis.decode(basis.encode(x)), x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(basis.encode(x).norm(dim=-1), x.norm(dim=-1), atol=1e-4, rtol=1e-4)


def test_axes_return_the_activations() -> None:
    x = torch.randn(2, 5, 7)
    assert torch.equal(axes(7).encode(x), x)
    assert torch.equal(axes(7, [6, 2]).encode(x), x[..., [6, 2]]) and axes(7, [6, 2]).labels == ("6", "2")
    with pytest.raises(PatchError, match=r"\[7\], expected at least one from 0 to 6"):
        axes(7, [7])


def test_pca_finds_the_directions_of_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = random_orthonormal(6, seed=3).directions
    scales = torch.tensor([9.0, 5.0, 3.0, 0.5, 0.2, 0.1])
    x = torch.randn(4000, 6, generator=generator).exp() * scales @ truth + 4.0
    fitted = pca(x, 3)
    np.testing.assert_allclose((fitted.directions @ truth.T).abs().diagonal(), 1, atol=0.02)
    features = fitted.encode(x)
    torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    assert (features.var(0).diff() < 0).all() and (features.pow(3).mean(0) > 0).all()
    with pytest.raises(PatchError, match="is 7, expected 1 to 6"):
        pca(x, 7)


def test_kmeans_largest_feature_is_the_nearest_centroid() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]])
    x = (centres[:, None] + 0.3 * torch.randn(3, 50, 3, generator=generator)).flatten(0, 1)
    fitted = kmeans(x, 3, seed=1)
    nearest = torch.cdist(x, fitted.points).argmin(1)
    assert torch.equal(fitted.encode(x).argmax(1), nearest) and len(nearest.unique()) == 3
    torch.testing.assert_close(-2 * fitted.encode(x), torch.cdist(x, fitted.points) ** 2, atol=1e-3, rtol=1e-3)
    with pytest.raises(PatchError, match="is 3, expected 1 to 2"):
        kmeans(x[:2], 3)


def test_both_signs() -> None:
    basis = BothSigns(axes(3))
    assert isinstance(basis, FeatureBasis) and isinstance(axes(3), FeatureBasis)
    assert basis.labels == ("+0", "+1", "+2", "-0", "-1", "-2") and basis.n_features == 6
    assert basis.encode(torch.tensor([[1.0, -2, 3]])).tolist() == [[1, -2, 3, -1, 2, -3]]


def test_errors() -> None:
    with pytest.raises(PatchError, match="not orthonormal"):
        LinearBasis(torch.ones(2, 3), torch.zeros(3), ("a", "b"))
    with pytest.raises(PatchError, match="labels"):
        LinearBasis(torch.eye(3), torch.zeros(3), ("a",))
    with pytest.raises(PatchError, match="1 to 4"):
        random_orthonormal(4, 5)


def test_patching_every_feature_of_a_full_basis_at_once_is_patching_the_point() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32}
        model = HookedWhisper(
            WhisperConfig(EncoderConfig(n_mels=80, n_ctx=24, **shape), DecoderConfig(n_vocab=60, n_ctx=12, **shape))
        )
    generator = torch.Generator().manual_seed(1)
    mels = torch.randn(2, 1, 80, 48, generator=generator)
    tokens = torch.randint(0, 60, (1, 5), generator=generator)
    base, source = (RunInputs(tokens, mel=mel) for mel in mels)
    metric = LogitDifference(3, 4, 4)
    basis = random_orthonormal(16, seed=2)
    grid = make_grid(model, "resid_post", "decoder", blocks=[1], subspaces=subspaces_of(basis))
    assert grid.shape == (1, 16) and grid.axes[-1].labels == basis.labels
    single = run_patches(model, grid.patches, base, source, metric)
    whole = make_grid(model, "resid_post", "decoder", blocks=[1], directions=basis.directions)
    all_of_it = run_patches(model, whole.patches, base, source, metric)
    np.testing.assert_allclose(all_of_it.values[0], all_of_it.source, atol=1e-4)
    assert np.abs(single.values.numpy() - single.base).max() > 1e-4
