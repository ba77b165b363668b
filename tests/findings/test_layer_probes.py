"""The linear phone probe on a layer as a whole: finds phones that are there, and no others."""

from __future__ import annotations

import numpy as np
import torch

from hooked_whisper.features import mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_rows import MEL, collect_rows
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.findings.phones.layer_probes import SHRINKAGE, LayerProbe, _Moments, probe_layer, with_context
from tests.findings.phone_worlds import PHONES, spoken
from tests.findings.worlds import small_model


def test_tones_are_told_apart_by_their_bands_and_shifted_labels_are_not() -> None:
    model = small_model(0)
    for shuffled, low, high in ((False, 0.8, 1.0), (True, 0.0, 0.2)):
        clips = list(spoken(60, shuffled=shuffled))
        with collect_rows(model, clips, [MEL]) as rows:
            pair = probe_layer(rows, HookBasis(MEL, mel_bands(model)), rows.labels(CountOptions()))
        assert pair is not None
        true, turned = pair
        assert true.names == tuple(sorted(PHONES)) and true.speakers == ("a", "b", "c")
        assert low <= true.accuracy <= high and low <= true.macro_f1 <= high
        assert turned.accuracy < 0.2
        np.testing.assert_array_equal(true.answered.sum(1), true.said.sum(1))  # each position gets an answer
        np.testing.assert_array_equal(true.said.sum(0), turned.said.sum(0))  # a turn keeps how often each is said


def test_too_few_instances_of_a_phone_give_no_probe() -> None:
    model = small_model(0)
    with collect_rows(model, list(spoken(6)), [MEL]) as rows:
        assert probe_layer(rows, HookBasis(MEL, mel_bands(model)), rows.labels(CountOptions())) is None


def test_the_rule_is_linear_discriminant_analysis() -> None:
    """Against the textbook formula; a class without rows is never the answer."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, size=400)
    x = (rng.standard_normal((3, 5)) @ rng.standard_normal((5, 5)))[ids] + rng.standard_normal((400, 5))
    x = (x - x.mean(0)) / x.std(0)
    data = torch.from_numpy(x).float()
    sums = torch.zeros(4, 5).index_add_(0, torch.from_numpy(ids), data)
    counts = torch.from_numpy(np.bincount(ids, minlength=4)).float()
    weights, offset = _Moments(data.T @ data, [sums], [counts]).rule(0)
    answers = (data @ weights.T + offset).argmax(1).numpy()
    within = sum((ids == k).sum() * np.cov(x[ids == k].T, bias=True) for k in range(3)) / len(ids)
    solver = np.linalg.inv(within + SHRINKAGE * np.eye(5))
    means = np.stack([x[ids == k].mean(0) for k in range(3)])
    scores = x @ solver @ means.T - np.einsum("ki,ij,kj->k", means, solver, means) / 2 + np.log(np.bincount(ids) / 400)
    assert (answers == scores.argmax(1)).mean() > 0.995 and answers.max() < 3


def test_f1_and_its_samples() -> None:
    hits, answered, said = np.array([[3, 0], [1, 2]]), np.array([[4, 1], [1, 3]]), np.array([[4, 1], [2, 2]])
    probe = LayerProbe(("a", "b"), ("x", "y"), hits, answered, said)
    assert probe.accuracy == 6 / 9
    assert probe.macro_f1 == np.mean([2 * 4 / (5 + 6), 2 * 2 / (4 + 3)])
    alone = np.array([[1, 0], [0, 1]])
    np.testing.assert_allclose(probe.accuracies(alone), [3 / 5, 3 / 4])
    np.testing.assert_allclose(probe.macro_f1s(alone), [(6 / 8 + 0) / 2, (2 / 3 + 4 / 5) / 2])
    assert probe.draws(np.random.default_rng(0), 50).sum(1).tolist() == [2] * 50


def test_context_repeats_the_ends() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    assert with_context(x, 1).tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 4, 5]]
