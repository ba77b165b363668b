"""Selectivity: planted features are detected, others are at chance, and no row is evaluated with its own fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.joint_histogram import JointCounts, count
from hooked_whisper.features.phones.selectivity import coverage, cross_selectivity, selectivity
from hooked_whisper.protocols import SILENCE

NAMES = (SILENCE, "s", "t", "m", "n", "ʒ")


def speaker(seed: int, n: int = 3000, chance: bool = False) -> JointCounts:
    """Feature 0 is selective for s, 1 for t (low values), 2 for m and n, 3 for silence, 4 and 5 for none; ʒ is rare."""
    ids = np.random.default_rng(seed).choice(6, size=n, p=[0.3, 0.2, 0.2, 0.15, 0.149, 0.001])
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    if not chance:
        for feature, labels, size in ((0, [1], 6), (1, [2], -6), (2, [3, 4], 6), (3, [0], 6)):
            x[:, feature] += size * torch.from_numpy(np.isin(ids, labels).astype(np.float32))
    return count(x, ids, NAMES)


def test_planted_features_are_detected() -> None:
    result = cross_selectivity([speaker(i) for i in range(3)])
    assert result.labels[:2] == ("s", "t") and result.sign[:2].tolist() == [1, -1]
    assert (
        (result.f1[:2] > 0.95).all() and (result.auc[:2] > 0.99).all() and (result.average_precision[:2] > 0.98).all()
    )
    assert 2 < result.threshold[0] < 4 and -4 < result.threshold[1] < -2 and (result.agreement[:2] == 1).all()
    np.testing.assert_allclose(result.prevalence[0], 0.2, atol=0.02)
    assert (
        result.rare == ("ʒ",) and not result.searched[0] and "ʒ" not in result.labels and SILENCE not in result.labels
    )
    assert result.f1_by_label[3, 0] > 0.95 and result.auc_by_label[3, 0] > 0.99
    assert coverage(result).covered == ("s", "t") and coverage(result).share == pytest.approx(0.5)
    assert (result.information[:4] > 0.3).all() and np.abs(result.information[4:]).max() < 0.01
    rows = result.to_rows()
    assert rows[0]["label"] == "s" and rows[0]["f1"] == result.f1[0] and len(rows) == 6


def test_precision_and_recall_of_every_label_give_its_f1() -> None:
    result = cross_selectivity([speaker(i) for i in range(3)])
    precision, recall = result.precision_by_label, result.recall_by_label
    f1 = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(f1, result.f1_by_label, rtol=1e-6)
    feature = np.arange(2)  # the folds agree on the labels of these
    for scores, of_best in ((precision, result.precision), (recall, result.recall)):
        np.testing.assert_allclose(scores[feature, result.best[:2]], of_best[:2])
    assert result.without_tables().precision_by_label.shape == (6, 0)


def test_classes_detect_features_of_several_phones() -> None:
    groups = {"nasals": {"m", "n"}, "stops": {"t"}}
    result = cross_selectivity([speaker(i).grouped(groups) for i in range(3)])
    assert result.labels[2] == "nasals" and result.f1[2] > 0.95 and result.labels[1] == "stops"
    single = cross_selectivity([speaker(i) for i in range(3)])
    assert single.labels[2] in ("m", "n") and single.f1[2] < 0.75


def test_unrelated_labels_are_at_chance() -> None:
    result = cross_selectivity([speaker(i, chance=True) for i in range(4)])
    np.testing.assert_allclose(result.auc_by_label[:, :5], 0.5, atol=0.03)
    chance = 2 * result.prevalence / (1 + result.prevalence)  # of a detector that always fires
    assert (result.f1 <= chance + 0.02).all() and coverage(result).covered == ()
    assert np.abs(result.information).max() < 0.003


def test_thresholds_come_from_other_speakers() -> None:
    """Speakers differ in scale: a speaker's threshold is perfect for that speaker and not for the other."""
    ids = np.tile(np.repeat([1, 2], 100), 2)
    x = torch.from_numpy((ids == 1).astype(np.float32) + 1)[:, None]
    quiet, loud = count(x, ids, NAMES), count(x * 8, ids, NAMES)
    assert selectivity(quiet, quiet, min_tokens=1).f1[0] == 1
    crossed = cross_selectivity([quiet, loud], min_tokens=1)
    assert crossed.f1[0] < 0.7
    np.testing.assert_allclose(
        selectivity(quiet, loud, min_tokens=1).f1[0], 2 * 200 / (400 + 200)
    )  # all rows of the loud speaker are above the threshold of the quiet one


@settings(max_examples=10)
@given(st.permutations(range(3)))
def test_the_order_of_folds_does_not_matter(order: list[int]) -> None:
    folds = [speaker(i, 400) for i in range(3)]
    first, second = (cross_selectivity(parts, min_tokens=10) for parts in (folds, [folds[i] for i in order]))
    for name in ("best", "f1", "threshold", "auc", "information", "f1_by_label"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), err_msg=name)


def test_pooled_f1_equals_a_direct_computation() -> None:
    folds = [speaker(i, 500) for i in range(2)]
    result = cross_selectivity(folds, min_tokens=10)
    halves = [selectivity(folds[1 - i], folds[i], min_tokens=1) for i in range(2)]
    p, r = np.stack([h.precision for h in halves]), np.stack([h.recall for h in halves])
    truth = np.stack([[folds[i].counts[0].sum(0)[b] for b in halves[i].best] for i in range(2)])
    hits = r * truth
    np.testing.assert_allclose(result.f1, 2 * hits.sum(0) / (truth + hits / p).sum(0))


def test_shifted_labels_are_subtracted() -> None:
    folds = [speaker(i) for i in range(2)]
    result = cross_selectivity(folds, shifted=folds[0] + folds[1])
    np.testing.assert_allclose(result.information, 0, atol=1e-12)


def test_without_labels_to_search() -> None:
    result = cross_selectivity([speaker(i, 40) for i in range(2)], min_tokens=1000)
    assert (result.best == -1).all() and np.isnan(result.f1).all() and set(result.labels) == {""}
    assert np.isnan(coverage(result).share)


def test_errors() -> None:
    with pytest.raises(PatchError, match="got 1 folds"):
        cross_selectivity([speaker(0, 40)])
    other = count(torch.zeros(3, 6), np.zeros(3, dtype=int), ("x",))
    with pytest.raises(PatchError, match="cannot be combined"):
        selectivity(speaker(0, 40), other)
