"""Published names of features: labels of positions, the best feature for each, and the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked_whisper.audio import TimeMap
from hooked_whisper.corpora import Clip
from hooked_whisper.features.phones.position_labels import label_names
from hooked_whisper.features.phones.row_labels import CountOptions, RowLabels
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from sae_lens_audio.findings import phone_detectors, published_names
from sae_lens_audio.findings.moments import strongest_moments, word_at

STEP = 0.1  # seconds per phone, five positions
SAID = [SILENCE, "AY", "N", "T", "R", "AE", "N", SILENCE, "N", "P", "CH", "W", "L", "AY", "M", SILENCE]


def clip(k: int, said: list[str] = SAID, speaker: str = "") -> Clip:
    phones = tuple(Interval(i * STEP, (i + 1) * STEP, label) for i, label in enumerate(said))
    end = len(said) * STEP
    words = (Interval(0.1, 0.3, "I'N"), Interval(0.3, 0.7, "Tran"))
    alignment = Alignment(f"u{k}", speaker or "ab"[k % 2], "", end, words, phones)
    return Clip.aligned(np.zeros(round(end * 16_000), np.float32), alignment)


def test_a_vowel_with_n_belongs_to_two_names() -> None:
    (relabeled,) = published_names.clips_with_names([clip(0)])
    labels = [phone.label for phone in relabeled.alignment.phones]
    assert labels == [
        SILENCE, "I before n", "n after vowel", "other", "r", "vowel before n", "n after vowel", SILENCE, "n", "p",
        "ch", "w", "l", "I", "other", SILENCE,
    ]  # fmt: skip
    groups = published_names.labels_of_names(labels)
    assert groups["n"] == {"n", "n after vowel"} and groups["I"] == {"I", "I before n"}
    assert groups["an/in/on"] == {"vowel before n", "I before n", "n after vowel"}
    counts = {label: labels.count(label) for label in set(labels)}
    tokens = {name.name: published_names.tokens_of(name, counts) for name in published_names.NAMES}
    assert tokens == {"r": 1, "n": 3, "p": 1, "ch": 1, "w": 1, "an/in/on": 2, "I": 2, "l": 1}


def test_a_gap_or_another_alphabet() -> None:
    apart = clip(0, ["aɪ", SILENCE, "n", "ɹ", "tʃ"])
    (relabeled,) = published_names.clips_with_names([apart])
    assert [phone.label for phone in relabeled.alignment.phones] == ["I", SILENCE, "n", "r", "ch"]


@pytest.mark.parametrize(
    ("f1", "random", "shifted", "expected"),
    [
        (0.8, 0.3, 0.1, "exists"),
        (0.5, 0.4, 0.1, "exists"),
        (0.5, 0.45, 0.1, "doubtful"),  # hardly above the best random direction
        (0.45, 0.1, 0.1, "doubtful"),
        (0.45, 0.1, 0.5, "absent"),
        (0.29, 0.0, 0.0, "absent"),
    ],
)
def test_verdict(f1: float, random: float, shifted: float, expected: str) -> None:
    assert published_names.verdict(f1, random, shifted) == expected


def test_planted_features_are_the_best_for_their_names() -> None:
    clips = published_names.clips_with_names([clip(k) for k in range(8)])
    names = label_names(c.alignment for c in clips)
    n = round(len(SAID) * STEP / 0.02)
    options = CountOptions(names, k=1, min_tokens=1)
    labels = RowLabels.of(clips, np.arange(9) * n, range(8), TimeMap(), options)
    groups = published_names.labels_of_names(names)
    rng = np.random.default_rng(0)
    values = rng.random((8 * n, 12)).astype(np.float32)  # noise
    ids = np.array(names)[labels.ids]
    planted = {"r": 3, "an/in/on": 7, "I": 9}
    for name, feature in planted.items():
        values[:, feature] = 2.0 * np.isin(ids, list(groups[name]))
    missing = (ids == "I") & (np.arange(8 * n) % 4 == 0)  # of "I", which is two thirds of its positions here
    values[missing, planted["I"]] = 0
    best, shifted = phone_detectors._best([labels.count(torch.from_numpy(values))], groups)
    assert {name: best[name].feature for name in planted} == planted
    assert best["r"].f1 == best["an/in/on"].precision == 1.0
    recall = 1 - missing.sum() / np.isin(ids, list(groups["I"])).sum()
    assert best["I"].recall == pytest.approx(recall) and best["I"].precision == 1.0
    assert best["I"].average_precision > 0.8 > best["w"].f1 > best["w"].prevalence
    assert max(shifted.values()) < 0.8


def test_strongest_moments_are_apart_and_positive() -> None:
    values = np.zeros(100, np.float32)
    values[[10, 11, 40, 60, 99]] = [5.0, 4.0, 3.0, 9.0, 1.0]
    values[70] = -8.0
    moments = strongest_moments(values, np.array([0, 50, 100]), 8)
    assert [(m.clip, m.position, m.value) for m in moments] == [(1, 10, 9), (0, 10, 5), (0, 40, 3), (1, 49, 1)]
    assert len(strongest_moments(values, np.array([0, 50, 100]), 2)) == 2
    assert strongest_moments(np.zeros(5, np.float32), np.array([0, 5]), 3) == []


def test_the_word_at_a_time_of_a_later_clip() -> None:
    later = replace(clip(0), offset=0.5)
    assert word_at(later, 0.0) == "tran" and word_at(later, 0.3) == ""
