"""Phones of units from aligned recordings: by activation range, around onsets, and as a label with its evidence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.corpora import Clip, Recording, own_alignments_fact
from hooked_whisper.corpora.windows import Part
from hooked_whisper.features.hook_basis import HookBasis, SelectedFeatures
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from hooked_whisper.features.phones.labeled_evaluation import FeatureCounts, evaluate_bases
from hooked_whisper.features.phones.polyphony import PhoneRanges, ranges_between
from hooked_whisper.features.scan import FeatureScan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis
from hooked_whisper.report.units.data import (
    POSITION_S,
    OnsetMeans,
    PhoneShare,
    SelectivityMeasure,
    Unit,
    UnitStats,
)

log = logging.getLogger(__name__)
_PHONES_SHOWN = 6
_LEAST_ONSETS = 20  # a mean of fewer mostly reflects the adjacent phones


SELECTIVITY = SelectivityMeasure(
    "selectivity",
    "how far the F1 of the label's detector is above chance (0: chance, 1: perfect); without a label, that of the best "
    "candidate. The detector is a threshold on the activation, set on other speakers than it is tested on",
)
SPARSENESS = SelectivityMeasure(
    "sparseness",
    "lifetime sparseness of the activation (Vinje and Gallant 2000): 0 if it is the same everywhere, near 1 if it is "
    "large at few moments only. Selectivity for phones needs recordings with phones by at least two speakers",
)


def sparseness(stats: UnitStats) -> float:
    """Return the lifetime sparseness of a unit, ``1 - mean² / mean of squares``; 0 for a unit that is always 0."""
    mean = max(float(stats.mean), 0.0)
    squares = float(stats.variance) + mean**2
    return 1 - mean**2 / squares if squares > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Labeling:
    """Counts and labels of the units that get a page; empty if no recording is aligned."""

    counts: FeatureCounts | None = None
    names: tuple[AutoLabel, ...] = ()
    ranges: PhoneRanges | None = None
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def measure(self) -> SelectivityMeasure:
        """The measure that sorts the units: by phones, or without phones by sparseness."""
        return SPARSENESS if self.counts is None else SELECTIVITY

    # computed for all units at once, when the first one needs it

    @cached_property
    def _purity(self) -> Float[np.ndarray, "unit"]:
        assert self.counts is not None
        return self.counts.purity().purity

    @cached_property
    def _onset_means(self) -> Float[np.ndarray, "unit label lag"]:
        assert self.counts is not None
        return self.counts.onsets.mean

    @cached_property
    def _by_range(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Shares of phones and the ends of their intervals ``[unit, range, phone]``, entropies ``[unit, range]``."""
        assert self.ranges is not None
        return (self.ranges.proportions, *self.ranges.interval, self.ranges.entropy)

    def add_to(self, unit: Unit, place: int) -> Unit:
        """Return the unit with its label, phones by range, onset means and scores."""
        if self.counts is None or self.ranges is None:
            return replace(unit, score=None if unit.stats.dead else sparseness(unit.stats))
        name, phones = self.names[place], self.counts.phones
        scores = {
            "best-phone F1 (held-out speakers)": phones.f1[place],
            "AUC": phones.auc[place],
            "average precision": phones.average_precision[place],
            "its chance level": phones.prevalence[place],
            "information about the phone (share)": phones.information_share[place],
            "top-20 purity": self._purity[place],
            "latency (ms)": 1000 * POSITION_S * self.counts.latency[place],
        }
        counts = self.ranges.counts[place]
        base = self.ranges.base
        shown = np.argsort(-(counts.sum(axis=0)), kind="stable")[:_PHONES_SHOWN]
        return replace(
            unit,
            label=name.text_with_scores,
            evidence=name.evidence,
            score=None if unit.stats.dead or not np.isfinite(name.lift) else float(name.lift),
            ranges=tuple(self._range(unit, place, i) for i in range(len(unit.ranges))),
            base_rates={self.ranges.names[i]: float(base[i]) for i in shown},
            onset=self._onsets(place),
            selectivity={key: float(value) for key, value in scores.items() if np.isfinite(value)},
        )

    def _range(self, unit: Unit, place: int, part: int):
        assert self.ranges is not None
        shares, low, high, entropies = self._by_range
        share, entropy = shares[place, part], float(entropies[place, part])
        if not np.isfinite(share).all():
            return unit.ranges[part]
        order = [i for i in np.argsort(-share, kind="stable")[:_PHONES_SHOWN] if share[i] > 0]
        phones = tuple(
            PhoneShare(
                self.ranges.names[i],
                float(share[i]),
                float(min(low[place, part, i], share[i])),
                float(max(high[place, part, i], share[i])),
            )
            for i in order
        )
        return replace(unit.ranges[part], phones=phones, entropy=entropy if np.isfinite(entropy) else 0.0)

    def _onsets(self, place: int) -> OnsetMeans | None:
        assert self.counts is not None
        means = self._onset_means[place]  # [label, lag]
        often = self.counts.onsets.counts.min(axis=1) >= _LEAST_ONSETS
        whole = np.isfinite(means).all(axis=1) & often
        peaks = np.where(whole, np.nan_to_num(means).max(axis=1), -np.inf)
        best = [i for i in np.argsort(-peaks, kind="stable")[:4] if whole[i]]
        if not best:
            return None
        lags = self.counts.onsets.lags * POSITION_S
        return OnsetMeans(lags, {self.counts.names[i]: means[i] for i in best})


def label_units(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    scanned: FeatureScan,
    basis: FeatureBasis | None,
    units: Sequence[int],
    max_clips: int,
    seed: int,
    track: Callable[[Iterable[list[int]]], Iterable[list[int]]],
) -> Labeling:
    """Count phones on at most ``max_clips`` windows of aligned recordings, drawn at random from the corpus."""
    clips = _clips_with_phones(model, corpus, max_clips, seed)
    speakers = {clip.speaker or str(i) for i, clip in enumerate(clips)}
    if len(speakers) < 2:
        why = "none: no recording has phones" if not clips else "none: labels need two speakers or more"
        return Labeling(facts=(("phone labels", why),))
    hook_basis = HookBasis(scanned.hook, SelectedFeatures(basis, tuple(units)))
    with torch.no_grad():
        counts = evaluate_bases(model, clips, {"units": hook_basis}, track=track, seed=seed)["units"]
    names = autolabels(
        Evidence(counts.phones, counts.purity(), counts.classes, counts.class_purity()),
        Evidence(counts.shifted_phones, counts.purity(1), counts.shifted_classes, counts.class_purity(1)),
    )
    ranges = ranges_between(counts.counts, scanned.ranges["equal width"].edges[list(units)])
    fact = f"from {len(clips)} aligned windows of {len(speakers)} speakers; thresholds from other speakers than scores"
    texts = own_alignments_fact(clip.alignment for clip in clips)
    facts = (("phone labels", fact), *([("texts of the labels", texts)] if texts else []))
    return Labeling(counts, tuple(names), ranges, facts)


def _clips_with_phones(model: HookedWhisper, corpus: Sequence[Recording], max_clips: int, seed: int) -> list[Clip]:
    """Windows of recordings with phones, in random order. Recordings that cannot be read are skipped with a warning."""
    aligned = [i for i, recording in enumerate(corpus) if recording.find_alignment is not None]
    if not aligned or not max_clips:
        return []
    order = np.random.default_rng(seed).permutation(aligned).tolist()
    clips, failures = labeled_clips(model, Part(corpus, order), max_clips, phones_only=True)
    for recording, reason in failures:
        log.warning("%s: skipped for labels, %s", recording, reason)
    return clips
