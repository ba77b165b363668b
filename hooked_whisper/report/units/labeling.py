"""What alignments say about units: their phones, over their range and round onsets, and a name with its evidence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Clip, Recording, windows_of
from hooked_whisper.corpora.own_texts import own_alignments_fact
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.labeled_evaluation import FeatureCounts, evaluate_bases
from hooked_whisper.features.phones.polyphony import PhoneRanges, ranges_between
from hooked_whisper.features.scan import FeatureScan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis
from hooked_whisper.report.units.data import POSITION_S, OnsetMeans, PhoneShare, Unit

log = logging.getLogger(__name__)
_PHONES_SHOWN = 6
_LEAST_S = 0.1
_LEAST_ONSETS = 20  # a mean of fewer is mostly what the neighbours are


@dataclass(frozen=True, eq=False)
class Labelling:
    """Empty (no counts) where nothing is aligned."""

    counts: FeatureCounts | None = None
    names: tuple[AutoLabel, ...] = ()
    ranges: PhoneRanges | None = None
    facts: tuple[tuple[str, str], ...] = ()

    # of all units at once: computed for the first, looked up for the others

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
        """Shares of phones, their intervals' ends ``[unit, range, phone]``, entropies ``[unit, range]``."""
        assert self.ranges is not None
        return (self.ranges.proportions, *self.ranges.interval, self.ranges.entropy)

    def add_to(self, unit: Unit, place: int) -> Unit:
        """The unit with its name, phones by range, onset means and scores."""
        if self.counts is None or self.ranges is None:
            return unit
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
            label=name.text,
            evidence=name.evidence,
            score=name.score if np.isfinite(name.score) else None,
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


@dataclass(frozen=True, eq=False)
class _Some:
    """Some features of a basis, or of the activations themselves: phones are counted for units with a page only."""

    basis: FeatureBasis | None
    chosen: tuple[int, ...]

    @property
    def n_features(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> tuple[str, ...]:
        names = None if self.basis is None else self.basis.labels
        return tuple(str(i) if names is None else names[i] for i in self.chosen)

    def encode(self, activations: Tensor) -> Tensor:
        whole = activations if self.basis is None else self.basis.encode(activations)
        return whole[..., list(self.chosen)]


def label_units(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    scanned: FeatureScan,
    basis: FeatureBasis | None,
    chosen: Sequence[int],
    most: int,
    seed: int,
    track: Callable[[Iterable[list[int]]], Iterable[list[int]]],
) -> Labelling:
    """Count phones on at most ``most`` windows of aligned recordings, drawn at random from the corpus."""
    clips = _clips(model, corpus, most, seed) if most else []
    speakers = {clip.speaker or str(i) for i, clip in enumerate(clips)}
    if len(speakers) < 2:
        why = "none: no recording has phones" if not clips else "none: labels need two speakers or more"
        return Labelling(facts=(("phone labels", why),))
    site = HookBasis(scanned.hook, _Some(basis, tuple(chosen)))
    with torch.no_grad():
        counts = evaluate_bases(model, clips, {"units": site}, track=track, seed=seed)["units"]
    names = autolabels(
        Evidence(counts.phones, counts.purity(), counts.classes, counts.class_purity()),
        Evidence(counts.shifted_phones, counts.purity(1), counts.shifted_classes, counts.class_purity(1)),
    )
    ranges = ranges_between(counts.counts, scanned.ranges["equal width"].edges[list(chosen)])
    fact = f"from {len(clips)} aligned windows of {len(speakers)} speakers; thresholds from other speakers than scores"
    texts = own_alignments_fact(clip.alignment for clip in clips)
    facts = (("phone labels", fact), *([("texts of the labels", texts)] if texts else []))
    return Labelling(counts, tuple(names), ranges, facts)


def _clips(model: HookedWhisper, corpus: Sequence[Recording], most: int, seed: int) -> list[Clip]:
    """Windows of recordings whose phones are known. What cannot be read is left out; the scan has reported it."""
    known = [i for i, one in enumerate(corpus) if one.find_alignment is not None]
    clock, found = model.time, []
    for i in np.random.default_rng(seed).permutation(known) if known else ():
        recording = corpus[int(i)]
        try:
            alignment = recording.alignment()
            if alignment is None or not alignment.phones:
                continue
            samples = recording.audio()
        except (AlignmentError, AudioError, OSError) as error:
            log.warning("%s: not labelled, %s", recording.id, error)
            continue
        windows = windows_of(samples, clock.n_samples)
        for number, (sound, length) in enumerate(zip(windows.samples, windows.lengths.tolist(), strict=True)):
            if length >= _LEAST_S * clock.sample_rate:
                offset = number * clock.duration
                found.append(Clip.aligned(sound[:length].numpy(), alignment, recording.speaker or recording.id, offset))
        if len(found) >= most:
            break
    return found[:most]
