"""Automatic labels: given where there is evidence, withheld where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.features.autolabel import AutoLabel, autolabels
from hooked_whisper.features.examples import Purity, purity
from hooked_whisper.features.joint import JointCounts, count
from hooked_whisper.features.selectivity import Selectivity, cross_selectivity
from hooked_whisper.protocols import SILENCE

NAMES = (SILENCE, "s", "t", "m", "n", "ɑ", "i", "u")
GROUPS = {"nasals": {"m", "n"}, "high vowels": {"i", "u"}}


def folds(planted: bool) -> list[JointCounts]:
    """0 fires for s, 1 for nasals, 2 in silence, 3 for nothing, 4 falls for t, 5 for a part of i."""
    made = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ids = rng.integers(8, size=2500)
        x = torch.from_numpy(rng.normal(size=(2500, 6)).astype(np.float32))
        fires = [ids == 1, np.isin(ids, [3, 4]), ids == 0, ids < 0, ids == 2, (ids == 6) & (rng.random(2500) < 0.25)]
        for feature, rows in enumerate(fires):
            size = (-8.0 if feature == 4 else 8.0) if planted else 0.0
            x[:, feature] += size * torch.from_numpy(rows.astype(np.float32))
        made.append(count(x, ids, NAMES))
    return made


TOP = np.array([[1] * 19 + [2], [3, 4] * 10, [0] * 20, [1, 2, 3, 4, 5] * 4, [5] * 20, [6] * 18 + [1, 2]])


def evidence(planted: bool) -> tuple[Selectivity, Purity, Selectivity, Purity]:
    parts = folds(planted)
    by_class = [p.grouped(GROUPS) for p in parts]
    silent = frozenset([SILENCE])
    return (
        cross_selectivity(parts),
        purity(TOP, NAMES, without=silent),
        cross_selectivity(by_class),
        purity(TOP, NAMES, GROUPS),
    )


@pytest.fixture(scope="module")
def labels() -> list[AutoLabel]:
    control, _, class_control, _ = evidence(False)
    return autolabels(*evidence(True), control, class_control)


def test_what_fires_for_something_is_called_that(labels: list[AutoLabel]) -> None:
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


def test_the_evidence_is_said(labels: list[AutoLabel]) -> None:
    assert "best-phone F1" in labels[0].evidence and "19 of the top 20 examples" in labels[0].evidence
    assert "held-out speakers" in labels[0].evidence and "AUC 1.00" in labels[0].evidence
    assert "20 of the top 20" in labels[1].evidence and "by low values" in labels[4].evidence
    assert "not selective" in labels[3].evidence
    assert labels[5].score < 0.5 and "18 of the top 20" in labels[5].evidence  # rare, but pure


def test_chance_gets_no_name() -> None:
    control, _, class_control, _ = evidence(False)
    found = autolabels(*evidence(False), control, class_control)
    assert {x.kind for x in found} == {"none"} and {x.text for x in found} == {"—"}


def test_nothing_beats_a_control_that_does_as_well() -> None:
    phones, top, classes, class_top = evidence(True)
    found = autolabels(phones, top, classes, class_top, phones, classes)
    assert {x.kind for x in found} == {"none"}


def test_numbers_of_features_must_agree() -> None:
    phones, top, classes, _ = evidence(True)
    with pytest.raises(PatchError, match="different numbers"):
        autolabels(phones, top, classes, purity(TOP[:2], NAMES, GROUPS), phones, classes)
