"""Features as detectors: of every phone, and of the sounds that features were published for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.features.hook_basis import HookBasis, SelectedFeatures
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.labeled_rows import LabeledRows
from hooked_whisper.features.phones.position_labels import label_names
from hooked_whisper.features.phones.row_labels import CountOptions, RowLabels
from hooked_whisper.features.phones.selectivity import Selectivity, cross_selectivity
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.findings.moments import strongest_moments, word_at
from sae_lens_audio.findings.published_names import (
    NAMES,
    NamedVerdict,
    clips_with_names,
    labels_of_names,
    tokens_of,
    verdict,
)

N_HEARD = 4  # strongest moments of a feature that are listed


@dataclass(frozen=True)
class Detector:
    """One feature as the detector of one sound, with scores on held-out speakers.

    Attributes:
        sound: phone, or published name.
        feature: index in the SAE.
        average_precision: over all thresholds. prevalence: its chance level.
        fires_high: whether high activations detect the sound, as in every sparse feature with a meaning.
        heard: words and speakers at the strongest moments.
    """

    sound: str
    feature: int
    f1: float
    precision: float
    recall: float
    average_precision: float
    prevalence: float
    fires_high: bool = True
    heard: tuple[str, ...] = ()

    @classmethod
    def of(cls, scores: Selectivity, sound: str, feature: int, place: int, heard: Sequence[str] = ()) -> Detector:
        """Return the detector at ``place`` of selectivity that was computed for a single label."""
        f1, precision, recall, average_precision, prevalence = (
            float(np.nan_to_num(x[place]))
            for x in (scores.f1, scores.precision, scores.recall, scores.average_precision, scores.prevalence)
        )
        fires_high = bool(scores.sign[place] > 0)
        return cls(sound, feature, f1, precision, recall, average_precision, prevalence, fires_high, tuple(heard))


@dataclass(frozen=True)
class NamedFeature:
    """The best feature of an SAE for a published name, with its controls.

    Attributes:
        tokens: how often the sound is said in the clips.
        random_f1: F1 of the best of as many random directions.
        shifted_f1: F1 of the best feature for labels rotated within each utterance.
        enough: whether the sound is said often enough to be judged.
        same_as: other published names with the same best feature, such as "n" for "an/in/on".
    """

    detector: Detector
    tokens: int
    random_f1: float
    shifted_f1: float
    enough: bool = True
    same_as: tuple[str, ...] = ()

    @property
    def verdict(self) -> NamedVerdict:
        return verdict(self.detector.f1, self.random_f1, self.shifted_f1) if self.enough else "not judged"

    @property
    def verdict_in_words(self) -> str:
        """The verdict, and which other names have the same feature."""
        shared = f", the feature of {' and '.join(self.same_as)}" if self.same_as else ""
        return self.verdict + shared


def phone_detectors(
    rows: LabeledRows, hook: str, sae: FeatureBasis, best: Mapping[str, int], options: CountOptions
) -> dict[str, Detector]:
    """Return the detector of each phone with the feature that :class:`PhoneScores` found best for it.

    best: feature by phone.
    """
    features = sorted(set(best.values()))
    counts = rows.counts(HookBasis(hook, SelectedFeatures(sae, tuple(features))), rows.labels(options))
    heard = words_heard(rows, hook, sae, features)
    detectors = {}
    for phone, feature in best.items():
        place = features.index(feature)
        folds = [fold.select(slice(place, place + 1)) for fold in counts.folds]
        scores = _selectivity(folds, phone, frozenset([phone]))
        detectors[phone] = Detector.of(scores, phone, feature, 0, heard[feature])
    return detectors


def named_features(
    rows: LabeledRows,
    hook: str,
    saes: Mapping[str, FeatureBasis],
    random: Callable[[int], FeatureBasis],
    options: CountOptions,
) -> dict[str, dict[str, NamedFeature]]:
    """Return the best feature of each SAE for each published name: ``[SAE][name]``.

    random: returns as many random directions as an SAE has features.
    """
    clips = clips_with_names(rows.clips)
    names = label_names(clip.alignment for clip in clips)
    labels = RowLabels.of(clips, rows.starts, range(len(clips)), rows.model.time, replace(options, names=names, k=1))
    groups = {name: members for name, members in labels_of_names(names).items() if members}
    tokens = dict(zip(names, labels.tokens.sum(axis=0).tolist(), strict=True))
    named = {}
    for sae_name, sae in saes.items():
        best, shifted_f1 = _best(rows.blocks(HookBasis(hook, sae), labels), groups)
        control, _ = _best(rows.blocks(HookBasis(hook, random(sae.n_features)), labels), groups)
        heard = words_heard(rows, hook, sae, sorted({detector.feature for detector in best.values()}))
        named[sae_name] = {
            name.name: NamedFeature(
                replace(best[name.name], heard=heard[best[name.name].feature]),
                tokens_of(name, tokens),
                control[name.name].f1,
                shifted_f1[name.name],
                tokens_of(name, tokens) >= options.min_tokens,
                tuple(other for other in best if other != name.name and best[other].feature == best[name.name].feature),
            )
            for name in NAMES
            if name.name in groups
        }
    return named


def words_heard(rows: LabeledRows, hook: str, sae: FeatureBasis, features: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return the words at the strongest moments of each feature, with the speaker: ``"time (am_eric)"``."""
    values = feature_rows(rows, hook, sae, features)
    seconds = rows.model.time.seconds_per_position
    heard = {}
    for place, feature in enumerate(features):
        words: dict[str, None] = {}
        for moment in strongest_moments(values[:, place], rows.starts, N_HEARD):
            clip = rows.clips[moment.clip]
            if word := word_at(clip, moment.position * seconds):
                words[f"{word} ({clip.speaker})"] = None
        heard[feature] = tuple(words)
    return heard


def feature_rows(
    rows: LabeledRows, hook: str, sae: FeatureBasis, features: Sequence[int]
) -> Float[np.ndarray, "row feature"]:
    """Return some features of an SAE at every position of the clips."""
    basis = HookBasis(hook, SelectedFeatures(sae, tuple(features)))
    return torch.cat([rows.features(basis, i) for i in range(len(rows.clips))]).float().numpy()


def _best(
    blocks: Iterable[FeatureCounts], groups: Mapping[str, frozenset[str]]
) -> tuple[dict[str, Detector], dict[str, float]]:
    """Return the feature with the highest F1 for each group of labels, and the highest F1 with rotated labels."""
    best: dict[str, Detector] = {}
    shifted = dict.fromkeys(groups, 0.0)
    first = 0
    for counts in blocks:
        for name, members in groups.items():
            scores = _selectivity(counts.folds, name, members)
            place = int(np.nan_to_num(scores.f1).argmax())
            detector = Detector.of(scores, name, first + place, place)
            if name not in best or detector.f1 > best[name].f1:
                best[name] = detector
            rotated = np.nan_to_num(_selectivity(counts.shifted, name, members).f1)
            shifted[name] = max(shifted[name], float(rotated.max(initial=0.0)))
        first += counts.counts.n_features
    return best, shifted


def _selectivity(folds: Sequence[JointCounts], name: str, members: frozenset[str]) -> Selectivity:
    """Return the selectivity for one group of labels; the caller checks the number of tokens."""
    return cross_selectivity([fold.grouped({name: members}) for fold in folds], min_tokens=1)
