"""Sparsity and reconstruction of a subject."""

from __future__ import annotations

import pytest
import torch

from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.benchmark.fidelity import Fidelity
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from tests.sae.benchmark.worlds import HOOK, D, axes_with_signs, planted_rows, subject

DATA = planted_rows(noise=0.3)


@pytest.fixture(scope="module")
def sae() -> TopK:
    return TopK(TopKConfig(D, 20, k=3), seed=0)


def test_scores_are_those_of_evaluate(sae: TopK) -> None:
    scores = Fidelity().measure(subject(sae), DATA)
    expected = ReconstructionScores.of(sae, DATA.rows[HOOK])
    assert scores["l0"].estimate.value == pytest.approx(expected.l0)
    assert scores["explained_variance"].estimate.value == pytest.approx(expected.explained_variance, abs=1e-9)
    assert scores["cosine"].estimate.value == pytest.approx(expected.cosine, abs=1e-6)
    assert scores["dead"].estimate.value == pytest.approx(expected.dead_fraction)


def test_curve_rises_to_the_whole(sae: TopK) -> None:
    """With as many latents as are active, the curve is at the explained variance of the SAE."""
    orthonormal = axes_with_signs(torch.ones(D))
    curve = Fidelity(curve=(1, 2, 4, 8)).measure(subject(orthonormal), DATA)["explained_variance"]
    values = [curve.parts[f"k={k}"] for k in (1, 2, 4, 8)]
    assert values == sorted(values) and values[-1] == pytest.approx(1)
    of_sae = Fidelity(curve=(1, 3)).measure(subject(sae), DATA)["explained_variance"]
    assert of_sae.parts["k=3"] == pytest.approx(of_sae.estimate.value, abs=1e-6)


def test_latency_has_the_extremes_of_its_runs(sae: TopK) -> None:
    estimate = Fidelity(curve=(1,)).measure(subject(sae), DATA)["latency"].estimate
    assert estimate.low is not None and estimate.high is not None and estimate.value is not None
    assert 0 < estimate.low <= estimate.value <= estimate.high
