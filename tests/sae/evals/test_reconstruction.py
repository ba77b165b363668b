"""Scores equal plain loops, whatever the batches; hostile rows are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import ArgumentError, ShapeError
from hooked_whisper.features.bases import axes, pca
from sae_lens_audio.architectures import Crosscoder, NormalizedSAE, Transcoder
from sae_lens_audio.evals.baselines import KLargest
from sae_lens_audio.evals.decodable import directions, reconstruct
from sae_lens_audio.evals.reconstruction import ReconstructionCounter, ReconstructionScores, density_edges
from tests.sae.saes import ALL, D, filled, inputs


def targets_of(sae, x: Tensor) -> Tensor:
    if isinstance(sae, Transcoder):
        return torch.randn(len(x), 4, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    return x


def by_hand(codes, x: Tensor, y: Tensor) -> dict[str, float]:
    """Every score in a loop over rows, from its definition."""
    features, predicted = reconstruct(codes, x)
    wanted, reconstructed = ([row.flatten().double().tolist() for row in part] for part in (y, predicted))
    n, mean = len(wanted), y.double().flatten(1).mean(0).tolist()
    error = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for p, q in zip(wanted, reconstructed, strict=True)]
    spread = [sum((a - b) ** 2 for a, b in zip(p, mean, strict=True)) for p in wanted]
    size = [math.sqrt(sum(a * a for a in p)) for p in wanted]
    length = [math.sqrt(sum(a * a for a in p)) for p in reconstructed]
    inner = [sum(a * b for a, b in zip(p, q, strict=True)) for p, q in zip(wanted, reconstructed, strict=True)]
    return {
        "l0": sum(sum(v != 0 for v in row.tolist()) for row in features) / n,
        "explained_variance": 1 - sum(error) / sum(spread),
        "explained_variance_per_position": sum(1 - e / s for e, s in zip(error, spread, strict=True)) / n,
        "normalized_mse": sum(error) / sum(s * s for s in size),
        "cosine": sum(i / (s * t) if t else 0.0 for i, s, t in zip(inner, size, length, strict=True)) / n,
        "relative_norm": sum(t / s for s, t in zip(size, length, strict=True)) / n,
        "relative_bias": sum(t * t for t in length) / sum(inner),
    }


@pytest.mark.parametrize("name", ALL)
def test_scores_of_every_architecture_are_those_of_a_loop(name: str) -> None:
    sae = filled(ALL[name])
    x = inputs(sae, rows=23)
    y = targets_of(sae, x)
    pairs = [(x[:9], y[:9]), (x[9:], y[9:])]
    scores = ReconstructionScores.of(sae, pairs if isinstance(sae, Transcoder) else [x[:9], x[9:]])
    for score, value in by_hand(sae, x, y).items():
        assert getattr(scores, score) == pytest.approx(value, rel=1e-9), score
    features = sae.encode(x)
    np.testing.assert_allclose(scores.density, (features != 0).double().mean(0).numpy())
    assert scores.n_rows == 23 and scores.d_in == x[0].numel() and scores.n_features == sae.n_features
    assert scores.dead_fraction == float((scores.density == 0).mean())


def test_normalized_saes_and_linear_bases() -> None:
    x = torch.randn(40, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 30
    for codes in (
        NormalizedSAE(filled(ALL["topk"]), "layer_norm"),
        NormalizedSAE(filled(ALL["standard"]), "constant_norm_rescale"),
        axes(D),
        pca(x.float(), 2),
        KLargest(pca(x.float()), 2),
    ):
        scores = ReconstructionScores.of(codes, x)
        for score, value in by_hand(codes, x, x).items():
            assert getattr(scores, score) == pytest.approx(value, rel=1e-6), (codes, score)
    exact = ReconstructionScores.of(axes(D), x)
    assert exact.explained_variance == 1 and exact.relative_bias == pytest.approx(1)
    assert exact.dense_fraction == 1 and exact.l0 == D


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_scores_depend_neither_on_batches_nor_on_a_large_mean(sizes: list[int], shift: float) -> None:
    sae = filled(ALL["standard"], seed=2)
    n = max(sum(sizes), 2)
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + shift
    whole, parts = ReconstructionScores.of(sae, x), ReconstructionScores.of(sae, list(x.split(sizes[0])))
    for score in ("l0", "explained_variance", "explained_variance_per_position", "cosine", "relative_norm"):
        assert getattr(parts, score) == pytest.approx(getattr(whole, score), rel=1e-6), score
    np.testing.assert_array_equal(parts.density, whole.density)
    error = (sae(x) - x).square().sum()
    assert whole.explained_variance == pytest.approx(1 - (error / (x - x.mean(0)).square().sum()).item(), rel=1e-6)


def test_rows_of_half_precision_are_widened() -> None:
    sae = filled(ALL["topk"]).float()
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(1)).half()
    assert ReconstructionScores.of(sae, x).cosine == ReconstructionScores.of(sae, x.float()).cosine


def test_a_given_mean_affects_the_per_position_score_only() -> None:
    sae, x = filled(ALL["topk"]), inputs(ALL["topk"], rows=30)
    by_own_mean, other = ReconstructionScores.of(sae, x), ReconstructionScores.of(sae, iter([x]), mean=torch.ones(D))
    assert by_own_mean.explained_variance == other.explained_variance
    expected = 1 - (sae(x) - x).square().sum(1) / (x - 1).square().sum(1)
    assert other.explained_variance_per_position == pytest.approx(expected.mean().item())


def test_undefined_scores_are_nan() -> None:
    sae = filled(ALL["topk"])
    single = ReconstructionScores.of(sae, torch.ones(1, D, dtype=torch.float64))
    assert math.isnan(single.explained_variance) and math.isnan(single.explained_variance_per_position)
    assert math.isfinite(single.cosine)
    nothing = ReconstructionScores.of(sae, torch.zeros(4, D, dtype=torch.float64))
    assert math.isnan(nothing.cosine) and math.isnan(nothing.normalized_mse)
    counter = ReconstructionCounter(sae)
    counter.add(inputs(sae))
    assert math.isnan(counter.result().explained_variance_per_position)


def test_densities_in_bins() -> None:
    scores = ReconstructionScores.of(filled(ALL["topk"]), inputs(ALL["topk"], rows=50))
    edges = density_edges(50)
    assert edges[0] <= np.log10(1 / 50) and edges[-1] == pytest.approx(0)
    assert scores.histogram().sum() == scores.alive.sum()


def test_hostile_rows_are_named() -> None:
    sae, x = filled(ALL["topk"]), inputs(ALL["topk"])
    bad = x.clone()
    bad[4, 2] = torch.nan
    with pytest.raises(ShapeError, match=r"row 4 of encoder\.blocks\.2 is NaN or infinite \(1 rows"):
        ReconstructionScores.of(sae, [bad], hook="encoder.blocks.2")
    with pytest.raises(ShapeError, match="no rows"):
        ReconstructionScores.of(sae, [])
    with pytest.raises(ShapeError, match="no rows"):
        ReconstructionScores.of(sae, [x[:0]])
    with pytest.raises(ArgumentError, match="only once"):
        ReconstructionScores.of(sae, iter([x]))
    with pytest.raises(ShapeError, match="wide"):
        ReconstructionScores.of(sae, torch.randn(3, D + 1))
    with pytest.raises(ShapeError, match="the mean is"):
        ReconstructionScores.of(sae, x, mean=torch.zeros(D + 1))
    with pytest.raises(ArgumentError, match="as targets"):
        ReconstructionScores.of(filled(ALL["transcoder"]), x)
    with pytest.raises(ShapeError, match="made for"):
        ReconstructionScores.of(filled(ALL["transcoder"]), [(x, x)])
    with pytest.raises(ShapeError, match="one for each"):
        ReconstructionScores.of(filled(ALL["transcoder"]), [(x, x[:3, :4])])
    broken = filled(ALL["standard"])
    with torch.no_grad():
        broken.W_dec[0, 0] = torch.inf
    with pytest.raises(ShapeError, match="the reconstruction of row"):
        ReconstructionScores.of(broken, x)


def test_directions_of_everything() -> None:
    for name, sae in ALL.items():
        rows = directions(sae)
        assert len(rows) == sae.n_features and rows.ndim == 2, name
    assert directions(ALL["crosscoder"]).shape == (9, 2 * D) and isinstance(ALL["crosscoder"], Crosscoder)
    assert directions(NormalizedSAE(ALL["topk"], "layer_norm")).shape == (9, D)
    assert directions(KLargest(axes(D), 2)).equal(torch.eye(D))
    with pytest.raises(ArgumentError, match="no W_dec"):
        directions(object())
