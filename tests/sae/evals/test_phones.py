"""Phone scores: planted detectors are found, controls are at chance, dead features are excluded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import AlignmentError, ArgumentError
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.bases import axes
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_evaluation import evaluate_bases, features_of_clips
from hooked_whisper.features.phones.selectivity import coverage
from sae_lens_audio.architectures import TopK, TopKConfig
from sae_lens_audio.evals.baselines import linear_bases
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, RarePhonesError, bootstrapped_mean, phone_scores
from tests.findings.phone_worlds import PHONES
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, tones

OPTIONS = PhoneOptions(min_tokens=20)


class Half:
    """An SAE whose second half of features never fires."""

    n_features, labels = 12, tuple(map(str, range(12)))

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([activations[..., :6].relu(), torch.zeros_like(activations[..., :6])], dim=-1)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def scores(model: HookedWhisper) -> dict[str, PhoneScores]:
    clips = tones(30)
    rows = features_of_clips(model, clips[:10], {"rows": HookBasis(HOOK)})["rows"]
    saes = {"sae": TopK(TopKConfig(32, 40, k=4)), "half": Half()}
    return phone_scores(model, clips, HOOK, saes, linear_bases(rows), OPTIONS)


def test_everything_is_scored_in_one_pass(scores: dict[str, PhoneScores]) -> None:
    assert list(scores) == ["sae", "half", "neurons", "pca", "random", "random x40", "mel bands"]
    assert [s.n_features for s in scores.values()] == [40, 12, 32, 32, 32, 40, 80]
    for name, phone_score in scores.items():
        assert set(phone_score.phones) == set(PHONES), name
        assert len(phone_score.best_f1) == len(phone_score.best_auc) == len(phone_score.to_rows()) == len(PHONES)
        for estimate in (
            phone_score.mean_f1,
            phone_score.found_share,
            phone_score.phone_f1,
            phone_score.covered,
            phone_score.covered_by_auc,
        ):
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1, name


def test_tones_are_in_the_mel_bands_and_shifted_labels_are_not(scores: dict[str, PhoneScores]) -> None:
    mel = scores["mel bands"]
    assert mel.phone_f1.value > 0.7 and mel.covered.value > 0.8 and mel.phone_f1.low > mel.shifted_phone_f1
    assert mel.shifted_phone_f1 < 0.4 and mel.shifted_coverage == 0 and mel.shifted_mean_f1 < mel.mean_f1.value
    best = {row["phone"]: row["feature"] for row in mel.to_rows()}
    assert best["p"] < best["m"] < best["l"]  # the tones rise in this order


def test_dead_features_are_in_no_mean(scores: dict[str, PhoneScores]) -> None:
    half = scores["half"]
    assert half.alive.sum() <= 6 and not half.alive[6:].any()
    assert half.mean_f1.value == pytest.approx(half.f1[half.alive].mean())
    assert half.best_feature.max() < 6
    dead = PhoneScores(
        half.phones, half.label, half.f1, np.zeros(12, dtype=bool), half.best_f1, half.best_feature, half.best_auc,
        half.shifted_f1, half.shifted_best_f1, 0.0,
    )  # fmt: skip
    assert dead.mean_f1.value is None and dead.found_share.value is None and np.isnan(dead.shifted_mean_f1)


def test_scores_equal_the_selectivity_of_the_scanner(model: HookedWhisper, scores: dict[str, PhoneScores]) -> None:
    clips = tones(30)
    site = evaluate_bases(
        model, clips, {"m": HookBasis("encoder.hook_mel", mel_bands(model))}, k=1, min_tokens=OPTIONS.min_tokens
    )["m"]
    estimate, mel = site.phones, scores["mel bands"]
    np.testing.assert_array_equal(mel.f1, estimate.f1)
    np.testing.assert_array_equal(mel.best_f1, estimate.f1_by_label.max(0)[estimate.searched])
    assert mel.covered.value == pytest.approx(coverage(estimate).share)
    assert mel.shifted_coverage == coverage(site.shifted_phones).share
    assert [mel.phones[i] for i in mel.label] == list(estimate.labels)


def test_bootstrap() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    estimate = bootstrapped_mean(values)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.003)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.003)
    assert bootstrapped_mean(values) == estimate and bootstrapped_mean(np.zeros(0)).value is None


def test_scores_that_cannot_be_computed_are_refused(model: HookedWhisper) -> None:
    clips = tones(3)
    with pytest.raises(RarePhonesError, match="often enough"):
        phone_scores(model, clips, HOOK, {}, {})
    with pytest.raises(AlignmentError, match="at least 2"):
        phone_scores(model, clips[:1], HOOK, {}, {}, PhoneOptions(min_tokens=1))
    with pytest.raises(ArgumentError, match="cannot be called 'pca'"):
        phone_scores(model, clips, HOOK, {"pca": Half()}, {"pca": axes(32)}, OPTIONS)
