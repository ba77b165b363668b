"""F16: targets are the best phones, names are those of the right frames; the experiment runs, draws and refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.features.phones.classifier import PhoneClassifier
from hooked_whisper.features.visualize_with_priors import MelPrior
from hooked_whisper.findings import feature_visualization
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.statistics import auc
from hooked_whisper.findings.feature_visualization import FeatureVisualization
from hooked_whisper.findings.phones import visualization_checks
from hooked_whisper.findings.phones.visualization_checks import VisualizationChecks, named_planted
from hooked_whisper.findings.phones.visualization_targets import Target, named_phones, phone_aucs, read_speech, targets
from hooked_whisper.protocols import Interval
from tests.core.twins import listeners
from tests.findings.worlds import small_context


@pytest.fixture
def context() -> Context:
    base = small_context(count=6)
    labels = ["SIL", "a", "b", "a", "b", "SIL"]
    clips = []
    for clip in base.utterances:
        phones = tuple(Interval(0.2 * k, 0.2 * k + 0.2, p) for k, p in enumerate(labels))
        clips.append(clip.with_alignment(replace(clip.alignment, phones=phones)))
    return replace(base, utterances=tuple(clips))


@given(st.integers(0, 1000))
def test_aucs_match_the_pairwise_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, size=(30, 3)).astype(float)  # with ties
    phone = rng.permutation(np.array(["a"] * 8 + ["b"] * 10 + ["c"] * 12))
    aucs = phone_aucs(values, phone, ["a", "b"])
    for u in range(3):
        for p, name in enumerate(["a", "b"]):
            here = phone == name
            assert aucs[u, p] == pytest.approx(auc(values[here, u], values[~here, u]))


def test_a_unit_has_one_phone_and_the_best_come_first() -> None:
    tables = {
        "x": np.array([[0.9, 0.95, 0.2], [0.6, 0.5, 0.5]]),
        "y": np.array([[0.1, 0.1, 0.7], [0.2, 0.3, 0.6]]),
    }
    assert targets(tables, ["a", "b", "c"], 20) == [Target("x", 0, "b", 0.95), Target("y", 0, "c", 0.7)]
    assert targets(tables, ["a", "b", "c"], count=1) == [Target("x", 0, "b", 0.95)]


def test_phone_is_named_from_the_frames_around_the_middle() -> None:
    weight = torch.zeros(2, 80 * 11)
    weight[1, 5::11] = 1.0  # the middle frame's level
    classifier = PhoneClassifier(("low", "high"), torch.zeros(80), torch.ones(80), weight, torch.zeros(2))
    mel = -torch.ones(2, 80, 40)
    mel[0, :, 18:23] = 1
    assert named_phones(classifier, mel, 20) == ("high", "low")
    assert named_phones(classifier, mel, np.array([30, 20])) == ("low", "low")
    assert named_phones(classifier, mel, 39) == ("low", "low")


def test_it_runs_and_draws(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (feature_visualization, visualization_checks):
        monkeypatch.setattr(module, "FIRST", 4)
        monkeypatch.setattr(module, "STEPS", 3)
    finding = FeatureVisualization().run(context)
    assert finding.status == "measured, no verdict" and "gate" in finding.status_reason  # two phones are not twenty
    assert {c.name for c in finding.controls} == set(feature_visualization.CONTROLS)
    shares = finding.measurement("share of features")
    real = shares.at(mel=feature_visualization.REAL, bound="value")
    assert real[0] == 0 and real[2] == 0  # no moment of speech exceeds the largest moment of speech
    assert len(finding.draw()) == 2 and len(finding.tables[0].rows) == len(finding.measurement("pre-activation").values)
    assert not listeners(context.model)


def test_phones_of_positions_are_those_at_their_centers(context: Context) -> None:
    speech = read_speech(context, ["encoder.blocks.1.mlp.hook_pre"])
    first = speech.utterance == 0
    assert speech.phone[first][:30].tolist() == ["SIL"] * 10 + ["a"] * 10 + ["b"] * 10
    assert speech.values["encoder.blocks.1.mlp.hook_pre"].shape == (len(first), 64)


def test_clips_without_phones_are_not_testable() -> None:
    finding = FeatureVisualization().run(small_context(count=3))
    assert finding.status == "not testable" and "no clip has phones" in finding.status_reason
    assert finding.draw() == []


def test_feature_scores_the_share_of_its_starts() -> None:
    features = [Target("x", 0, "a", 0.9), Target("x", 1, "b", 0.8)]
    activation = np.array([[2.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    checks = VisualizationChecks.of(features, [["a", "b", "a", "a"], ["b"] * 4], activation, np.array([1.0, 1.0]))
    assert checks.both.tolist() == [[True, False, False, True], [False] * 4]
    others = checks.with_targets_of_others(features)
    assert others.named.tolist() == [[False, True, False, False], [False] * 4]


def test_planted_phones_are_named() -> None:
    """Two classifiers that agree on what two phones are, and a prior with enough room for both."""
    weight = torch.zeros(2, 80, 11)
    weight[0, :40], weight[1, 40:] = 1.0, 1.0
    low_or_high = PhoneClassifier(("low", "high"), torch.zeros(80), torch.ones(80), weight.flatten(1), torch.zeros(2))
    generator = torch.Generator().manual_seed(0)
    real = [torch.randn(80, 120, generator=generator)]
    prior = MelPrior.of(real, 2 * visualization_checks.POSITIONS)
    assert named_planted(low_or_high, low_or_high, ["low", "high", "unknown"], prior, 0).tolist() == [[True] * 3] * 2
