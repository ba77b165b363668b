"""Sparse probes on activations whose features are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_lens_audio.benchmark.probes import best_thresholds, linear_probe, logistic_probes
from sae_lens_audio.benchmark.probing import SparseProbing
from sae_lens_audio.benchmark.probing_counts import precision_of, ranked_counts
from tests.sae.benchmark.small_speech import PHONES, dense_dictionary, random_dictionary, small_speech, true_dictionary


def test_one_latent_per_phone_is_read_without_error():
    scores = SparseProbing(ks=(1, 2)).measure(true_dictionary(), small_speech())
    for name in ("phone_probe_k1", "phone_probe_k2", "phone_probe_f1_k1", "phone_probe_all"):
        assert scores[name].estimate.value == pytest.approx(1, abs=0.02), name
        assert set(scores[name].parts) == set(PHONES)


def test_more_latents_help_a_dense_basis():
    scores = SparseProbing(ks=(1, 5, 16)).measure(dense_dictionary(), small_speech(noise=0.5))
    first, five, many = (scores[f"phone_probe_k{k}"].estimate.value for k in (1, 5, 16))
    assert first < five < many
    assert first < 0.8
    assert scores["phone_probe_all"].estimate.value > many


@pytest.mark.parametrize("subject", [true_dictionary(), random_dictionary(), dense_dictionary()], ids=lambda s: s.name)
def test_shifted_labels_leave_chance(subject):
    data = small_speech().with_shifted_labels()
    prevalence = np.mean([(data.phone == i).mean() for i in range(len(PHONES))])
    scores = SparseProbing().measure(subject, data)
    for name, score in scores.items():
        if "_f1_" not in name:
            assert score.estimate.value < prevalence + 0.08, name


def test_probes_with_more_latents_than_there_are_are_left_out():
    scores = SparseProbing(ks=(1, 16)).measure(random_dictionary(8), small_speech())
    assert "phone_probe_k1" in scores
    assert "phone_probe_k16" not in scores


def test_metrics_are_those_that_are_measured():
    family = SparseProbing()
    scores = family.measure(true_dictionary(), small_speech())
    assert {metric.name for metric in family.metrics} >= set(scores)


def test_logistic_probes_recover_the_odds_that_the_labels_were_drawn_from():
    x = torch.randn(2, 20_000, 2, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    odds = torch.einsum("prk,pk->pr", x, weight) - 1
    y = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(1)) < odds.sigmoid()
    probes = logistic_probes(x, y)
    assert torch.allclose(probes.weight, weight, atol=0.15)
    assert torch.allclose(probes.bias, torch.tensor([-1.0, -1.0]), atol=0.1)


def test_logistic_probes_are_finite_without_rows_of_a_class_and_with_separable_ones():
    x = torch.randn(3, 50, 1, generator=torch.Generator().manual_seed(0))
    x[2] = 0
    y = torch.stack([torch.zeros(50, dtype=torch.bool), x[1, :, 0] > 0, torch.arange(50) % 2 == 0])
    probes = logistic_probes(x, y)
    assert torch.isfinite(probes.weight).all()
    assert torch.isfinite(probes.bias).all()
    assert probes.weight[1] > 1
    assert probes.weight[2] == 0


def test_the_ridge_probe_equals_least_squares_without_a_penalty():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 10
    y = torch.stack([x[:, 0] > 10, x[:, 1] > 10.5], 1)
    probe = linear_probe(x, y, penalty=0.0)
    design = torch.cat([x, torch.ones(200, 1)], 1)
    expected = design @ torch.linalg.lstsq(design, y.float()).solution
    assert torch.allclose(probe.scores(x), expected, atol=1e-3)


def test_the_best_threshold_is_halfway_and_does_not_split_equal_scores():
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    y = torch.tensor([[True, True, False, False, False]])
    threshold, f1 = best_thresholds(scores, y)
    assert threshold.item() == 2
    assert f1.item() == pytest.approx(2 / 3)


def test_average_precision_of_counts_is_that_of_the_scores():
    rng = np.random.default_rng(0)
    truth = rng.random((3000, 1)) < 0.1
    scores = (truth + rng.standard_normal((3000, 1))).astype(np.float32)
    counts = ranked_counts(scores, truth, rng.integers(4, size=3000), 4).sum(0)
    ordered = truth[np.argsort(-scores[:, 0]), 0]
    exact = (np.cumsum(ordered) / np.arange(1, 3001))[ordered].mean()
    assert precision_of(counts)[0] == pytest.approx(exact, abs=0.02)
    equal = ranked_counts(np.zeros((3000, 1), dtype=np.float32), truth, np.zeros(3000, dtype=int), 1).sum(0)
    assert precision_of(equal)[0] == pytest.approx(truth.mean())
