"""Summaries of the features at a hook point for the experiments on phones.

They are computed for one block of features at a time and then joined, which limits the memory.
"""

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
TOPS = (10, TOP)  # numbers of examples: as published, and as judged
SIZES = (25, 50, 100, 200, 400, 800, 1600)  # numbers of utterances from which examples are taken
MOST_LAG = 6  # positions (120 ms) by which a neuron's peak may precede or follow its phone


@dataclass(frozen=True, eq=False)
class Named:
    """Labels of positions, by which top examples are judged.

    lagged: label of each position when the labels are shifted by -:data:`MOST_LAG` to :data:`MOST_LAG` positions.
    order: a random order of the utterances. Top examples are also taken from its first 25, 50, ... utterances.
    """

    names: tuple[str, ...]
    classes: dict[str, frozenset[str]]
    lagged: Int[np.ndarray, "lag position"]
    order: Int[np.ndarray, "utterance"]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of utterances from which examples are taken: :data:`SIZES`, and all utterances."""
        n = len(self.order)
        return (*(size for size in SIZES if size < n), n)


@dataclass(frozen=True, eq=False)
class TopPurity:
    """Purity of the top examples by number of utterances, and at the best lag of each feature. NaN: not alive.

    by_size: ``[top 10 or 20, size, feature]``, in the first utterances of a random order.
    lagged: in the second half, with labels at the lag at which the feature's examples in the first half are purest.
    """

    by_size: Float[np.ndarray, "top size feature"]
    lagged: Float[np.ndarray, "feature"]

    @classmethod
    def of(cls, tops: Tops, named: Named, half: Bool[np.ndarray, "utterance"]) -> TopPurity:
        by_size = np.full((len(TOPS), len(named.sizes), len(tops.values)), np.nan, dtype=np.float32)
        for j, size in enumerate(named.sizes):
            first = np.zeros(len(half), dtype=bool)
            first[named.order[:size]] = True
            for i, k in enumerate(TOPS):
                if size >= k:
                    top = tops.among(first, k)
                    by_size[i, j] = top.purity(top.ids[0], named)
        chooses, judges = tops.among(half), tops.among(~half)
        picking = np.stack([chooses.purity(_labels(chooses, labels), named) for labels in named.lagged])
        lag = np.where(np.isnan(picking), -1, picking).argmax(axis=0)  # ties: the first
        at_lag = np.where(judges.position >= 0, named.lagged[lag[:, None], judges.position], ABSENT)
        return cls(by_size, judges.purity(at_lag, named))

    @staticmethod
    def joined(parts: Sequence[TopPurity]) -> TopPurity:
        return TopPurity(
            np.concatenate([part.by_size for part in parts], axis=2), np.concatenate([part.lagged for part in parts])
        )


def _labels(tops: Tops, labels: Int[np.ndarray, "position"]) -> Int[np.ndarray, "feature k"]:
    return np.where(tops.position >= 0, labels[tops.position], ABSENT)


@dataclass(frozen=True, eq=False)
class Tops:
    """The strongest position of every utterance for each feature, strongest first, padded with ``ABSENT``.

    ids: true and shifted labels of these positions. utterance, position: indices.
    """

    values: Float[np.ndarray, "feature k"]
    ids: Int[np.ndarray, "label_set feature k"]
    utterance: Int[np.ndarray, "feature k"]
    position: Int[np.ndarray, "feature k"]

    @classmethod
    def of(cls, top: TopExamples) -> Tops:
        """Convert top examples whose label sets are the true labels, the shifted labels, and the indices of
        positions."""
        ids = np.stack([top.ids(0), top.ids(1)]).astype(np.int16)
        return cls(top.values.copy(), ids, top.utterances.astype(np.int32), top.ids(2).astype(np.int32))

    def of_both(self, half: Bool[np.ndarray, "utterance"], k: int = TOP) -> Tops:
        """Return the k strongest of each half of the utterances, which is enough for :meth:`among` a half or all."""
        order = np.append(half, False)[self.utterance]
        rank = [np.where(part, np.cumsum(part, axis=1), np.inf) for part in (order, ~order & (self.utterance >= 0))]
        needed = np.minimum(*rank) <= k
        n = min(2 * k, needed.shape[1])
        index = np.argsort(~needed, axis=1, kind="stable")[:, :n]
        return self._at(index, np.take_along_axis(needed, index, axis=1))

    @staticmethod
    def joined(parts: Sequence[Tops]) -> Tops:
        """Concatenate the features of several parts, on the same utterances."""
        return Tops(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.ids for part in parts], axis=1),
            np.concatenate([part.utterance for part in parts]),
            np.concatenate([part.position for part in parts]),
        )

    def among(self, utterances: Bool[np.ndarray, "utterance"], k: int = TOP) -> Tops:
        """Return the k strongest in the masked utterances."""
        inside = (self.utterance >= 0) & np.append(utterances, False)[self.utterance]
        index = np.argsort(~inside, axis=1, kind="stable")[:, :k]
        return self._at(index, np.take_along_axis(inside, index, axis=1))

    def _at(self, index: Int[np.ndarray, "feature k"], exists: Bool[np.ndarray, "feature k"]) -> Tops:
        values, utterance, position = (
            np.take_along_axis(x, index, axis=1) for x in (self.values, self.utterance, self.position)
        )
        ids = np.take_along_axis(self.ids, index[None], axis=2)
        return Tops(
            np.where(exists, values, np.float32(-np.inf)),
            np.where(exists, ids, np.int16(ABSENT)),
            np.where(exists, utterance, np.int32(ABSENT)),
            np.where(exists, position, np.int32(ABSENT)),
        )

    def purity(self, ids: Int[np.ndarray, "feature k"], named: Named) -> Float[np.ndarray, "feature"]:
        """Return the purity for phones (not silence) or for narrow classes, whichever is larger.

        NaN for a feature that is not positive in all of these examples.
        """
        alive = self.values[:, -1] > 0
        larger = np.fmax(
            purity(ids, named.names, without=frozenset([SILENCE])).purity,
            purity(ids, named.names, named.classes).purity,
        )
        return np.where(alive, larger, np.nan)


@dataclass(frozen=True, eq=False)
class PhoneSite:
    """Summary of the features at one hook point for the experiments on phones.

    phones: selectivity; the tables by label are included only for neurons.
    deciles: labels by range of activation.
    best_f1: the highest held-out F1 of any feature for each label.
    """

    tops: Tops
    names: tuple[str, ...]
    phones: Selectivity
    deciles: RangeSummary
    best_f1: Float[np.ndarray, "label"]

    @classmethod
    def of(cls, counts: FeatureCounts, half: Bool[np.ndarray, "utterance"]) -> PhoneSite:
        """Return the summary of counts. ``half``: see :meth:`Tops.of_both`."""
        return cls(
            Tops.of(counts.top).of_both(half),
            counts.names,
            counts.phones.without_tables(),
            active_ranges(counts.counts, "deciles").without_counts(),
            _highest(counts.phones.f1_by_label),
        )

    @classmethod
    def joined(cls, blocks: Iterable[FeatureCounts], half: Bool[np.ndarray, "utterance"]) -> Any:
        """Return the summary of all blocks of features, with the counts of only one block in memory at a time."""
        return cls._join([cls.of(block, half) for block in blocks])

    @classmethod
    def _join(cls, parts: Sequence[PhoneSite]) -> PhoneSite:
        return PhoneSite(
            Tops.joined([part.tops for part in parts]),
            parts[0].names,
            Selectivity.joined([part.phones for part in parts]),
            RangeSummary.joined([part.deciles for part in parts]),
            _highest([part.best_f1 for part in parts]),
        )

    @property
    def best_of_phones(self) -> Float[np.ndarray, "phone"]:
        """Highest F1 of any feature for each phone that is said often enough. The feature is selected on the data on
        which it is scored."""
        return self.best_f1[self.phones.searched]

    def purity(self, utterances: Bool[np.ndarray, "utterance"], label_set: int = 0) -> tuple[Purity, Purity]:
        """Return the purity of the top examples in some utterances, for phones (not silence) and for classes.

        label_set: 0 for the true labels, 1 for the shifted ones.
        """
        ids = self.tops.among(utterances).ids[label_set]
        phones = purity(ids, self.names, without=frozenset([SILENCE]))
        return phones, purity(ids, self.names, classes(self.names))

    def alive(self, utterances: Bool[np.ndarray, "utterance"]) -> Bool[np.ndarray, "feature"]:
        """Return which features are positive in all of their top examples in these utterances."""
        return self.tops.among(utterances).values[:, -1] > 0


@dataclass(frozen=True, eq=False)
class RangeExample:
    """Counts of a neuron's labels by range of activation, for a figure."""

    neuron: int
    f1: float
    deciles: Int[np.ndarray, "range label"]
    widths: Int[np.ndarray, "width label"]


@dataclass(frozen=True, eq=False)
class NeuronSite(PhoneSite):
    """Summary of the neurons at one hook point.

    shifted, classes, shifted_classes: selectivity with shifted labels, for classes of phones, and for both.
    widths: labels by ranges of equal width. shifted_deciles: shifted labels by range of activation.
    examples: for each phone, the neuron that detects it with the highest F1 by a high activation.
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
            deciles.without_counts(),
            _highest(counts.phones.f1_by_label),
            _smaller(counts.shifted_phones),
            _smaller(counts.classes),
            _smaller(counts.shifted_classes),
            widths.without_counts(),
            active_ranges(counts.shifted_counts, "deciles").without_counts(),
            _examples(counts.phones, deciles, widths),
        )

    @classmethod
    def _join(cls, parts: Sequence[Any]) -> NeuronSite:
        columns: dict[str, Any] = {
            name: kind.joined([getattr(part, name) for part in parts])
            for kind, names in (
                (Selectivity, ("phones", "shifted", "classes", "shifted_classes")),
                (RangeSummary, ("deciles", "widths", "shifted_deciles")),
                (Tops, ("tops",)),
            )
            for name in names
        }
        columns["best_f1"] = _highest([part.best_f1 for part in parts])
        examples: dict[str, RangeExample] = {}
        first = 0
        for part in parts:
            for phone, example in part.examples.items():
                if phone not in examples or example.f1 > examples[phone].f1:
                    examples[phone] = replace(example, neuron=example.neuron + first)
            first += len(part.phones.best)
        return cls(names=parts[0].names, examples=examples, **columns)


def _smaller(selectivity: Selectivity) -> Selectivity:
    """Convert the tables by label, which need most of the memory, to single precision."""
    return replace(
        selectivity,
        auc_by_label=selectivity.auc_by_label.astype(np.float32),
        f1_by_label=selectivity.f1_by_label.astype(np.float32),
        precision_by_label=selectivity.precision_by_label.astype(np.float32),
        recall_by_label=selectivity.recall_by_label.astype(np.float32),
    )


def _highest(rows: Sequence[np.ndarray] | np.ndarray) -> Float[np.ndarray, "label"]:
    """Return the maximum for each label, or NaN if no feature has a number."""
    return np.fmax.reduce(np.asarray(rows), axis=0)


def _examples(phones: Selectivity, deciles: PhoneRanges, widths: PhoneRanges) -> dict[str, RangeExample]:
    examples: dict[str, RangeExample] = {}
    for i in np.argsort(-phones.f1, kind="stable"):
        if np.isfinite(phones.f1[i]) and phones.sign[i] > 0 and phones.labels[i] not in examples:
            example = RangeExample(int(i), float(phones.f1[i]), deciles.counts[i].copy(), widths.counts[i].copy())
            examples[phones.labels[i]] = example
    return examples
