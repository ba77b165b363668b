"""What the findings on phones keep of each site: made of the counts of a block of features at a time, then joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked_whisper.features.phones.articulation import classes
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.polyphony import PhoneRanges, RangeSummary, active_ranges
from hooked_whisper.features.phones.selectivity import Selectivity
from hooked_whisper.features.phones.top_examples import ABSENT, Purity, TopExamples, purity
from hooked_whisper.protocols import SILENCE

TOP = 20  # strongest examples of a feature, one per utterance
TOPS = (10, TOP)  # as published, and as judged
SIZES = (25, 50, 100, 200, 400, 800, 1600)  # utterances that examples are taken from
MOST_LAG = 6  # positions: a neuron's peak may be so much before or after its phone, 120 ms


@dataclass(frozen=True, eq=False)
class Named:
    """Labels, and what top examples are judged by besides the label at the strongest moment.

    lagged: labels of each position from :data:`MOST_LAG` positions earlier to as many later.
    order: of the utterances, at random: examples among the first 25, 50, ... of them show what their number changes.
    """

    names: tuple[str, ...]
    classes: dict[str, frozenset[str]]
    lagged: Int[np.ndarray, "lag position"]
    order: Int[np.ndarray, "utterance"]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of utterances: doubling, and all of them."""
        n = len(self.order)
        return (*(size for size in SIZES if size < n), n)


@dataclass(frozen=True, eq=False)
class TopPurity:
    """How pure the top examples are, by number of utterances and with a lag of each feature's own; NaN: not alive.

    by_size: ``[top 10 or 20, size, feature]``, among the first so many utterances of a random order.
    lagged: in the half that judges, of labels at the lag at which the feature's examples in the other half are purest.
    """

    by_size: Float[np.ndarray, "top size feature"]
    lagged: Float[np.ndarray, "feature"]

    @classmethod
    def of(cls, tops: Tops, named: Named, half: Bool[np.ndarray, "utterance"]) -> TopPurity:
        by_size = np.full((len(TOPS), len(named.sizes), len(tops.values)), np.nan, dtype=np.float32)
        for j, size in enumerate(named.sizes):
            some = np.zeros(len(half), dtype=bool)
            some[named.order[:size]] = True
            for i, k in enumerate(TOPS):
                if size >= k:
                    top = tops.among(some, k)
                    by_size[i, j] = top.purity(top.ids[0], named)
        chooses, judges = tops.among(half), tops.among(~half)
        picking = np.stack([chooses.purity(_labels(chooses, labels), named) for labels in named.lagged])
        lag = np.where(np.isnan(picking), -1, picking).argmax(axis=0)  # the first among equals
        at_lag = np.where(judges.position >= 0, named.lagged[lag[:, None], judges.position], ABSENT)
        return cls(by_size, judges.purity(at_lag, named))

    @staticmethod
    def joined(parts: Sequence[TopPurity]) -> TopPurity:
        return TopPurity(
            np.concatenate([one.by_size for one in parts], axis=2), np.concatenate([one.lagged for one in parts])
        )


def _labels(tops: Tops, labels: Int[np.ndarray, "position"]) -> Int[np.ndarray, "feature k"]:
    return np.where(tops.position >= 0, labels[tops.position], ABSENT)


@dataclass(frozen=True, eq=False)
class Tops:
    """For each feature the strongest position of every utterance, strongest first; ``ABSENT`` where there is none.

    ids: labels of those positions, true and shifted; utterance: which one; position: its number among all positions.
    """

    values: Float[np.ndarray, "feature k"]
    ids: Int[np.ndarray, "labelling feature k"]
    utterance: Int[np.ndarray, "feature k"]
    position: Int[np.ndarray, "feature k"]

    @classmethod
    def of(cls, top: TopExamples) -> Tops:
        """Of labellings that are the true one, the shifted one, and the position's number."""
        ids = np.stack([top.ids(0), top.ids(1)]).astype(np.int16)
        return cls(top.values.copy(), ids, top.utterances.astype(np.int32), top.ids(2).astype(np.int32))

    def of_both(self, half: Bool[np.ndarray, "utterance"], k: int = TOP) -> Tops:
        """The k strongest of some utterances and of the others: enough for :meth:`among` these, the others and all."""
        order = np.append(half, False)[self.utterance]
        rank = [np.where(part, np.cumsum(part, axis=1), np.inf) for part in (order, ~order & (self.utterance >= 0))]
        kept = np.minimum(*rank) <= k
        n = min(2 * k, kept.shape[1])
        place = np.argsort(~kept, axis=1, kind="stable")[:, :n]
        there = np.take_along_axis(kept, place, axis=1)
        return self._at(place, there)

    @staticmethod
    def joined(parts: Sequence[Tops]) -> Tops:
        """Of other features, on the same utterances."""
        return Tops(
            np.concatenate([one.values for one in parts]),
            np.concatenate([one.ids for one in parts], axis=1),
            np.concatenate([one.utterance for one in parts]),
            np.concatenate([one.position for one in parts]),
        )

    def among(self, chosen: Bool[np.ndarray, "utterance"], k: int = TOP) -> Tops:
        """The k strongest of some utterances."""
        there = (self.utterance >= 0) & np.append(chosen, False)[self.utterance]
        order = np.argsort(~there, axis=1, kind="stable")[:, :k]
        return self._at(order, np.take_along_axis(there, order, axis=1))

    def _at(self, place: Int[np.ndarray, "feature k"], there: Bool[np.ndarray, "feature k"]) -> Tops:
        values, utterance, position = (
            np.take_along_axis(x, place, axis=1) for x in (self.values, self.utterance, self.position)
        )
        ids = np.take_along_axis(self.ids, place[None], axis=2)
        return Tops(
            np.where(there, values, np.float32(-np.inf)),
            np.where(there, ids, np.int16(ABSENT)),
            np.where(there, utterance, np.int32(ABSENT)),
            np.where(there, position, np.int32(ABSENT)),
        )

    def purity(self, ids: Int[np.ndarray, "feature k"], named: Named) -> Float[np.ndarray, "feature"]:
        """Of the phones (silence is no majority) or of narrow classes, whichever is larger; NaN for a feature that is
        not positive in as many utterances as these are."""
        alive = self.values[:, -1] > 0
        found = np.fmax(
            purity(ids, named.names, without=frozenset([SILENCE])).purity,
            purity(ids, named.names, named.classes).purity,
        )
        return np.where(alive, found, np.nan)


@dataclass(frozen=True, eq=False)
class PhoneSite:
    """What the findings on phones need of one site; the counts themselves are not kept.

    phones: of neurons whole, of other sites without the tables by label.
    deciles: labels by range of activation.
    best_f1: of each label, the highest held-out F1 of any feature for it.
    """

    tops: Tops
    names: tuple[str, ...]
    phones: Selectivity
    deciles: RangeSummary
    best_f1: Float[np.ndarray, "label"]

    @classmethod
    def of(cls, counts: FeatureCounts, half: Bool[np.ndarray, "utterance"]) -> PhoneSite:
        """half: the utterances that are told apart from the others, see :meth:`Tops.of_both`."""
        return cls(
            Tops.of(counts.top).of_both(half),
            counts.names,
            counts.phones.without_tables(),
            active_ranges(counts.counts, "deciles").summary(),
            _highest(counts.phones.f1_by_label),
        )

    @classmethod
    def joined(cls, blocks: Iterable[FeatureCounts], half: Bool[np.ndarray, "utterance"]) -> Any:
        """Of all blocks of features of a site; of each block only what is needed is held."""
        return cls._join([cls.of(block, half) for block in blocks])

    @classmethod
    def _join(cls, parts: Sequence[PhoneSite]) -> PhoneSite:
        return PhoneSite(
            Tops.joined([one.tops for one in parts]),
            parts[0].names,
            Selectivity.joined([one.phones for one in parts]),
            RangeSummary.joined([one.deciles for one in parts]),
            _highest([one.best_f1 for one in parts]),
        )

    @property
    def best_of_phones(self) -> Float[np.ndarray, "phone"]:
        """Of each phone that is said often enough, the highest F1 of any feature. The feature is picked where it is
        judged."""
        return self.best_f1[self.phones.searched]

    def purity(self, chosen: Bool[np.ndarray, "utterance"], labelling: int = 0) -> tuple[Purity, Purity]:
        """Of the top examples among some utterances: for phones (silence is no majority), and for narrow classes."""
        ids = self.tops.among(chosen).ids[labelling]
        phones = purity(ids, self.names, without=frozenset([SILENCE]))
        return phones, purity(ids, self.names, classes(self.names))

    def alive(self, chosen: Bool[np.ndarray, "utterance"]) -> Bool[np.ndarray, "feature"]:
        """Whether a feature is positive in as many of the utterances as it has top examples."""
        return self.tops.among(chosen).values[:, -1] > 0


@dataclass(frozen=True, eq=False)
class RangeExample:
    """A neuron's labels by range, for a figure. deciles, widths: ``[range, label]``."""

    neuron: int
    f1: float
    deciles: Int[np.ndarray, "range label"]
    widths: Int[np.ndarray, "width label"]


@dataclass(frozen=True, eq=False)
class NeuronSite(PhoneSite):
    """More of the neurons themselves.

    shifted, classes, shifted_classes, shifted_deciles: as named, with shifted labels.
    widths: ranges of equal width.
    examples: of each phone the neuron with the highest F1 for it by high values.
    """

    shifted: Selectivity
    classes: Selectivity
    shifted_classes: Selectivity
    widths: RangeSummary
    shifted_deciles: RangeSummary
    examples: dict[str, RangeExample]

    @classmethod
    def of(cls, counts: FeatureCounts, half: Bool[np.ndarray, "utterance"]) -> NeuronSite:
        deciles, widths = (active_ranges(counts.counts, kind) for kind in ("deciles", "width"))
        return cls(
            Tops.of(counts.top).of_both(half),
            counts.names,
            _smaller(counts.phones),
            deciles.summary(),
            _highest(counts.phones.f1_by_label),
            _smaller(counts.shifted_phones),
            _smaller(counts.classes),
            _smaller(counts.shifted_classes),
            widths.summary(),
            active_ranges(counts.shifted_counts, "deciles").summary(),
            _examples(counts.phones, deciles, widths),
        )

    @classmethod
    def _join(cls, parts: Sequence[Any]) -> NeuronSite:
        columns: dict[str, Any] = {
            name: kind.joined([getattr(one, name) for one in parts])
            for kind, names in (
                (Selectivity, ("phones", "shifted", "classes", "shifted_classes")),
                (RangeSummary, ("deciles", "widths", "shifted_deciles")),
                (Tops, ("tops",)),
            )
            for name in names
        }
        columns["best_f1"] = _highest([one.best_f1 for one in parts])
        examples: dict[str, RangeExample] = {}
        first = 0
        for one in parts:
            for phone, example in one.examples.items():
                if phone not in examples or example.f1 > examples[phone].f1:
                    examples[phone] = replace(example, neuron=example.neuron + first)
            first += len(one.phones.best)
        return cls(names=parts[0].names, examples=examples, **columns)


def _smaller(found: Selectivity) -> Selectivity:
    """With its tables by label, which take most of the memory, in single precision."""
    return replace(
        found, auc_by_label=found.auc_by_label.astype(np.float32), f1_by_label=found.f1_by_label.astype(np.float32)
    )


def _highest(rows: Sequence[np.ndarray] | np.ndarray) -> Float[np.ndarray, "label"]:
    """Of each label; NaN where no feature has a number."""
    return np.fmax.reduce(np.asarray(rows), axis=0)


def _examples(phones: Selectivity, deciles: PhoneRanges, widths: PhoneRanges) -> dict[str, RangeExample]:
    found: dict[str, RangeExample] = {}
    for i in np.argsort(-phones.f1, kind="stable"):
        if np.isfinite(phones.f1[i]) and phones.sign[i] > 0 and phones.labels[i] not in found:
            example = RangeExample(int(i), float(phones.f1[i]), deciles.counts[i].copy(), widths.counts[i].copy())
            found[phones.labels[i]] = example
    return found
