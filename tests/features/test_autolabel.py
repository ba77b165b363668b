"""Automatic labels are given with evidence, and only then."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.joint_histogram import JointCounts, count
from hooked_whisper.features.phones.selectivity import cross_selectivity
from hooked_whisper.features.phones.top_examples import purity
from hooked_whisper.protocols import SILENCE

NAMES = (SILENCE, "s", "t", "m", "n", "ɑ", "i", "u")
GROUPS = {"nasals": {"m", "n"}, "high vowels": {"i", "u"}}


def _ids(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(8, size=2500)


def _values(seed: int) -> np.ndarray:
    """Counts in which only feature 2 is selective: for silence."""
    x = np.random.default_rng(100 + seed).normal(size=(2500, 6)).astype(np.float32)
    x[:, 2] += 8.0 * (_ids(seed) == 0)
    return x


def folds(planted: bool) -> list[JointCounts]:
    """Feature 0 is selective for s, 1 for nasals, 2 for silence, 3 for nothing, 4 for t (low values), 5 for some i."""
    parts = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ids = rng.integers(8, size=2500)
        x = torch.from_numpy(rng.normal(size=(2500, 6)).astype(np.float32))
        fires = [ids == 1, np.isin(ids, [3, 4]), ids == 0, ids < 0, ids == 2, (ids == 6) & (rng.random(2500) < 0.25)]
        for feature, rows in enumerate(fires):
            size = (-8.0 if feature == 4 else 8.0) if planted else 0.0
            x[:, feature] += size * torch.from_numpy(rows.astype(np.float32))
        parts.append(count(x, ids, NAMES))
    return parts


TOP = np.array([[1] * 19 + [2], [3, 4] * 10, [0] * 20, [1, 2, 3, 4, 5] * 4, [5] * 20, [6] * 18 + [1, 2]])


CHANCE = np.tile([1, 2, 3, 4, 5], (6, 4))


def evidence(planted: bool) -> Evidence:
    parts = folds(planted)
    by_class = [p.grouped(GROUPS) for p in parts]
    silent = frozenset([SILENCE])
    top = TOP if planted else CHANCE
    return Evidence(
        cross_selectivity(parts),
        purity(top, NAMES, without=silent),
        cross_selectivity(by_class),
        purity(top, NAMES, GROUPS),
    )


@pytest.fixture(scope="module")
def labels() -> list[AutoLabel]:
    return autolabels(evidence(True), evidence(False))


def test_selective_features_get_their_label(labels: list[AutoLabel]) -> None:
    assert [(x.kind, x.label) for x in labels] == [
        ("phone", "s"),
        ("class", "nasals"),
        ("silence", "silence"),
        ("none", ""),
        ("phone", "t"),
        ("phone", "i"),
    ]
    assert labels[0].text == f"/s/ {labels[0].score:.2f}" and labels[0].score > 0.95
    assert labels[1].text == f"nasals {labels[1].score:.2f}" and labels[2].text.startswith("silence ")
    assert labels[3].text == "—" and np.isnan(labels[3].score)


def test_evidence_names_its_numbers(labels: list[AutoLabel]) -> None:
    assert "best-phone F1" in labels[0].evidence and "19 of the top 20 examples" in labels[0].evidence
    assert "held-out speakers" in labels[0].evidence and "AUC 1.00" in labels[0].evidence
    assert "20 of the top 20" in labels[1].evidence and "by low values" in labels[4].evidence
    assert "not selective" in labels[3].evidence
    assert labels[5].score < 0.5 and "18 of the top 20" in labels[5].evidence  # rare, but pure


def test_text_with_scores_has_precision_and_recall(labels: list[AutoLabel]) -> None:
    for label in labels:
        if label.kind == "none":
            assert label.text_with_scores == "—"
            continue
        f1 = 2 / (1 / label.precision + 1 / label.recall)
        assert f1 == pytest.approx(label.score)
        scores = f"precision {label.precision:.2f}, recall {label.recall:.2f}"
        assert label.text_with_scores == f"{label.text} ({scores})" and scores in label.evidence


def test_features_at_chance_have_no_label() -> None:
    labels = autolabels(evidence(False), evidence(False))
    assert {x.kind for x in labels} == {"none"} and {x.text for x in labels} == {"—"}


def test_no_label_if_the_control_scores_as_high() -> None:
    labels = autolabels(evidence(True), evidence(True))
    assert {x.kind for x in labels} == {"none"}


def test_numbers_of_features_must_agree() -> None:
    labels = evidence(True)
    with pytest.raises(PatchError, match=r"\[2, 6\] features"):
        autolabels(labels._replace(class_top=purity(TOP[:2], NAMES, GROUPS)), labels)


def test_rare_phones_are_labeled_by_top_examples() -> None:
    labels, control = evidence(True), evidence(False)
    nothing = cross_selectivity(folds(True), min_tokens=10**6)
    label = autolabels(labels._replace(phones=nothing), control)[5]
    assert (label.kind, label.label) == ("phone", "i") and "18 of the top 20 examples" in label.evidence
    few = labels._replace(phones=nothing, top=purity(TOP[:, :5], NAMES))
    assert autolabels(few, control)[5].kind != "phone"


def test_low_values_in_silence_are_not_labeled_silence() -> None:
    labels, control = evidence(True), evidence(False)
    turned = cross_selectivity([count(-torch.from_numpy(_values(seed)), _ids(seed), NAMES) for seed in range(3)])
    assert autolabels(labels._replace(phones=turned), control)[2].kind == "none"
