"""Phones that a feature responds to in each range of its activation, and whether high ranges are more selective.

Ranges are compared by proportions, because low ranges have more examples, and their entropies at an equal number of
examples, because the entropy of a small sample is biased low. Positions of one phone are not independent, and no
formula corrects for that: use one example per utterance (:func:`ranges_of_examples`) or compare with shifted labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln
from scipy.stats import rankdata

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.features.phones.articulation import distances
from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.measures import chunks, miller_madow, quantile_bins, rebin, wilson

EQUAL_N = 20  # number of examples at which entropies are compared
_DRAWN_AT_ONCE = 1 << 21  # terms of the hypergeometric sum per block
_FEATURES_AT_ONCE = 1 << 11  # features of the confusion test per block: 16 MB per table of 1000 permutations

Ranges = Float[np.ndarray, "feature range"]


@dataclass(frozen=True, eq=False, repr=False)
class PhoneRanges(Showing):
    """Labels per range of activation, lowest range first.

    Attributes:
        names: labels.
        counts: examples by feature, range, label.
        base: share of each label among all rows, for comparison.
        edges: lower bounds of the ranges and the upper bound of the last one, as feature activations rounded to bin
            edges; NaN where unknown or empty.
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, "feature range label"]
    base: Float[np.ndarray, "label"]
    edges: Float[np.ndarray, "feature edge"]

    @property
    def n(self) -> Int[np.ndarray, "feature range"]:
        """Number of examples."""
        return self.counts.sum(axis=2)

    @property
    def proportions(self) -> Float[np.ndarray, "feature range label"]:
        """Share of each label in each range; NaN in empty ranges."""
        n = self.n[:, :, None]
        return np.divide(self.counts, n, out=np.full(self.counts.shape, np.nan), where=n > 0)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "feature range label"], Float[np.ndarray, "feature range label"]]:
        """95 % Wilson intervals of the proportions; too narrow if the examples are adjacent positions."""
        return wilson(self.counts, self.n[:, :, None])

    @property
    def purity(self) -> Ranges:
        """Share of the most frequent label; NaN in empty ranges, biased high in small ones."""
        top, n = self.counts.max(axis=2), self.n
        return np.divide(top, n, out=np.full(n.shape, np.nan), where=n > 0)

    @property
    def majority(self) -> Int[np.ndarray, "feature"]:
        """Most frequent label in the highest non-empty range; -1 if all are empty."""
        filled = self.n > 0
        last = filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
        return np.where(filled.any(axis=1), self.counts[np.arange(len(last)), last].argmax(axis=1), -1)

    @property
    def label_counts(self) -> Int[np.ndarray, "feature label"]:
        """Examples of each label, summed over ranges."""
        return self.counts.sum(axis=1)

    def without_counts(self) -> RangeSummary:
        """Return a summary that takes a tenth of the memory."""
        smallest = np.int32 if self.label_counts.max(initial=0) < 2**31 else np.int64
        counts = self.label_counts.astype(smallest)
        return RangeSummary(self.names, self.equal_entropy(), counts, self.majority, self.base)

    @property
    def entropy(self) -> Ranges:
        """H(label | range) in nats, Miller-Madow corrected, from all examples of the range; NaN in empty ranges."""
        return miller_madow(self.counts)

    @property
    def effective(self) -> Ranges:
        """exp(H): the number of equally frequent labels with this entropy."""
        return np.exp(self.entropy)

    def equal_entropy(self, n: int = EQUAL_N) -> Ranges:
        """Mean plug-in entropy (nats) of ``n`` examples drawn without replacement: the bias is the same for all ranges.

        Exact (hypergeometric), without sampling. NaN where a range has fewer than ``n`` examples. Source: rarefaction
        as in Hurlbert 1971, "The nonconcept of species diversity", applied to entropy.
        """
        if n < 2:
            raise PatchError(f"n is {n}, expected at least 2 examples")
        k = np.arange(1, n + 1)
        terms = -(k / n) * np.log(k / n)
        entropies = np.full(self.counts.shape[:2], np.nan)
        enough = self.n >= n
        counts, totals = self.counts[enough], self.n[enough]
        log_factorial = gammaln(np.arange(int(totals.max(initial=n)) + 1) + 1.0)  # a table is thirty times as fast
        # a label's term depends on its count and the range's total only, and most such pairs occur many times
        size = int(totals.max(initial=0)) + 1
        pairs, pair_of_label = np.unique(counts.astype(np.int64) * size + totals[:, None], return_inverse=True)
        step = max(1, _DRAWN_AT_ONCE // n)
        parts = [
            (np.exp(_log_hypergeometric(k, pair // size, pair % size, n, log_factorial)) * terms).sum(axis=1)
            for pair in (pairs[start : start + step, None] for start in range(0, len(pairs), step))
        ]
        if parts:
            entropies[enough] = np.concatenate(parts)[pair_of_label.reshape(counts.shape)].sum(axis=1)
        return entropies

    def trend(self, n: int = EQUAL_N) -> Float[np.ndarray, "feature"]:
        """Spearman correlation of :meth:`equal_entropy` with the order of the ranges.

        Negative if stronger activations are more selective for one label. NaN with fewer than three ranges of ``n``
        examples, or equal entropies. If labels are independent of activations, the mean is 0 for ranges of equal size.
        Entropies of small ranges have the right mean but a skewed distribution: with 2,000 rows in the lowest range and
        30 in the highest, the mean correlation is about 0.09.
        """
        return spearman_with_order(self.equal_entropy(n))

    @renamed_arguments(most="n_labels")
    def published_counts(
        self, n_labels: int = 5
    ) -> tuple[Int[np.ndarray, "feature label"], Int[np.ndarray, "feature range label"]]:
        """Most frequent labels of each feature and their counts per range, as published plots show them."""
        order = np.argsort(-self.counts.sum(axis=1), axis=1, kind="stable")[:, :n_labels]
        return order, np.take_along_axis(self.counts, order[:, None, :], axis=2)


@dataclass(frozen=True, eq=False, repr=False)
class RangeSummary(Showing):
    """:class:`PhoneRanges` without the counts of each range.

    Attributes:
        names, majority, label_counts, base: as in :class:`PhoneRanges`.
        equal_entropies: :meth:`PhoneRanges.equal_entropy` of :data:`EQUAL_N` examples.
    """

    names: tuple[str, ...]
    equal_entropies: Ranges
    label_counts: Int[np.ndarray, "feature label"]
    majority: Int[np.ndarray, "feature"]
    base: Float[np.ndarray, "label"]

    @property
    def trend(self) -> Float[np.ndarray, "feature"]:
        """:meth:`PhoneRanges.trend`."""
        return spearman_with_order(self.equal_entropies)

    @staticmethod
    def joined(parts: Sequence[RangeSummary]) -> RangeSummary:
        """Concatenate the summaries of different features, counted on the same rows and labels."""
        return replace(
            parts[0],
            equal_entropies=np.concatenate([part.equal_entropies for part in parts]),
            label_counts=np.concatenate([part.label_counts for part in parts]),
            majority=np.concatenate([part.majority for part in parts]),
        )


@renamed_arguments(n_bins="n_ranges")
def active_ranges(joint: JointCounts, kind: Literal["deciles", "width"], n_ranges: int | None = None) -> PhoneRanges:
    """Divide the active values (above the bin about zero) of all rows into ranges.

    Args:
        kind: ``"deciles"``: with equal numbers of rows; bins are not split. ``"width"``: of equal width, from zero to
            the end of the largest value's bin.
        n_ranges: default: 10 deciles, 5 of equal width. Bins are an eighth of an octave wide, so that more ranges of
            equal width would be narrower than the highest bins.

    Raises:
        PatchError: an unknown ``kind``, or no range.
    """
    check_option("kind", kind, ("deciles", "width"), PatchError)
    n = (10 if kind == "deciles" else 5) if n_ranges is None else n_ranges
    if n < 1:
        raise PatchError(f"n_ranges is {n}, expected at least 1")
    zero = joint.bins.per_sign
    active = joint.totals.copy()
    active[:, : zero + 1] = 0
    range_of_bin = quantile_bins(active, n) if kind == "deciles" else _width_bins(joint, active, n)
    return _ranges(joint, np.where(active > 0, range_of_bin, -1), n)


@renamed_arguments(n_bins="n_ranges")
def signed_ranges(joint: JointCounts, n_ranges: int = 10) -> PhoneRanges:
    """Divide all values, negative ones and zero too, into ranges with equal numbers of rows."""
    return _ranges(joint, np.where(joint.totals > 0, quantile_bins(joint.totals, n_ranges), -1), n_ranges)


def ranges_of_examples(
    ids: Int[np.ndarray, "feature range example"],
    names: tuple[str, ...],
    base: Float[np.ndarray, "label"],
    edges: Float[np.ndarray, "feature edge"] | None = None,
) -> PhoneRanges:
    """Count the labels of sampled examples, such as 50 of each range, one per utterance. Negative ids are skipped.

    Raises:
        PatchError: an id is out of range.
    """
    if ids.size and ids.max() >= len(names):
        raise PatchError(f"an id is {ids.max()}, expected less than {len(names)}")
    n_features, n_ranges, _ = ids.shape
    labeled = ids >= 0
    entry = np.arange(n_features * n_ranges).reshape(n_features, n_ranges, 1) * len(names) + ids
    counts = np.bincount(entry[labeled], minlength=n_features * n_ranges * len(names))
    bounds = np.full((n_features, n_ranges + 1), np.nan) if edges is None else edges
    return PhoneRanges(tuple(names), counts.reshape(n_features, n_ranges, len(names)), base, bounds)


@dataclass(frozen=True, eq=False, repr=False)
class ConfusionTest(Showing):
    """Test of whether a feature's other phones are articulatorily closer to its main phone than by chance.

    Attributes:
        majority: label of the feature.
        distance: mean articulatory distance of the other labels' examples to the majority label, per feature.
        expected: mean of the same over permutations.
        p_value: share of permutations, the data included, with an equal or smaller distance.
        pooled_p: the same for the mean over features, with the same permutations for all.
    """

    majority: Int[np.ndarray, "feature"]
    distance: Float[np.ndarray, "feature"]
    expected: Float[np.ndarray, "feature"]
    p_value: Float[np.ndarray, "feature"]
    pooled_p: float


def confusions(ranges: PhoneRanges | RangeSummary, rng: np.random.Generator, permutations: int = 1000) -> ConfusionTest:
    """Measure the articulatory distance of a feature's confusions, in all ranges, to the majority of the highest range.

    The null hypothesis permutes the over-representation of the other labels (count divided by base rate) and keeps the
    base rates, so that a similar label that is merely frequent is not evidence. Labels without articulation, such as
    silence, are skipped. A feature has NaN if its majority is such a label, or if it has no confusions.
    """
    table = distances(ranges.names)
    usable = np.isfinite(np.diagonal(table)) & (ranges.base > 0)
    majority = ranges.majority
    judged = np.flatnonzero((majority >= 0) & usable[majority])
    labels = np.flatnonzero(usable)
    base, table = ranges.base[labels], table[np.ix_(labels, labels)]
    majority_label = np.searchsorted(labels, majority[judged])
    confused = ranges.label_counts[np.ix_(judged, labels)].sum(axis=1) > ranges.label_counts[judged, majority[judged]]
    judged, majority_label = judged[confused], majority_label[confused]
    # the same permutations for all features keep their dependence
    orders = np.array([rng.permutation(len(labels)) for _ in range(permutations)]).reshape(permutations, len(labels))

    true, total, below = np.zeros(len(judged)), np.zeros(len(judged)), np.ones(len(judged))
    pooled = np.zeros(permutations)
    for label in np.unique(majority_label):
        rates = base.copy()
        rates[label] = 0  # the majority is not a confusion
        near = rates * table[label]
        inverse = _inverse_orders(orders, int(label))
        members = np.flatnonzero(majority_label == label)
        for start in range(0, len(members), _FEATURES_AT_ONCE):
            block = members[start : start + _FEATURES_AT_ONCE]
            counts = ranges.label_counts[np.ix_(judged[block], labels)].astype(float)
            excess = np.divide(counts, rates, out=np.zeros(counts.shape), where=rates > 0)
            true[block] = (excess * near).sum(axis=1) / (excess * rates).sum(axis=1)
            # permuting the weights inversely equals permuting the excess
            drawn = (excess @ near[inverse].T) / (excess @ rates[inverse].T)
            below[block] += (drawn <= true[block, None] + 1e-12).sum(axis=1)
            total[block] += drawn.sum(axis=1)
            pooled += drawn.sum(axis=0)
    results = np.full((3, len(majority)), np.nan)
    results[:, judged] = true, total / max(1, permutations), below / (permutations + 1)
    near_by_chance = 1 + (pooled / max(1, len(true)) <= true.mean() + 1e-12).sum() if len(true) else float("nan")
    return ConfusionTest(majority, results[0], results[1], results[2], float(near_by_chance / (permutations + 1)))


def _inverse_orders(orders: Int[np.ndarray, "permutation label"], fixed: int) -> Int[np.ndarray, "permutation label"]:
    """Invert the permutations, changed so that ``fixed`` maps to itself.

    The label that a permutation maps to ``fixed`` is mapped to the image of ``fixed`` instead.
    """
    row = np.arange(len(orders))
    drawn = orders.copy()
    drawn[row, np.argsort(orders, axis=1)[:, fixed]] = orders[:, fixed]
    drawn[:, fixed] = fixed
    return np.argsort(drawn, axis=1)


def _width_bins(joint: JointCounts, active: Int[np.ndarray, "feature bin"], n: int) -> Int[np.ndarray, "feature bin"]:
    """Range of each bin, by the middle of the bin; the outermost bin, which is unbounded, by its edge."""
    edges = joint.bins.edges.numpy()
    upper = np.where(np.isfinite(edges[1:]), edges[1:], edges[:-1])
    middle = (np.maximum(edges[:-1], -upper.max()) + upper) / 2
    top = np.where(active > 0, upper, 0).max(axis=1, keepdims=True)
    return np.clip((middle / np.where(top > 0, top, 1) * n).astype(np.int64), 0, n - 1)


def _ranges(joint: JointCounts, range_of_bin: Int[np.ndarray, "feature bin"], n: int) -> PhoneRanges:
    parts = chunks(joint.n_features, joint.bins.n, len(joint.names))
    counts = [rebin(joint.counts[part], range_of_bin[part], n) for part in parts]
    edges = joint.bins.edges.numpy()
    lower = [np.where((range_of_bin == b) & (joint.totals > 0), edges[:-1], np.inf).min(axis=1) for b in range(n)]
    upper = np.where((range_of_bin >= 0) & (joint.totals > 0), edges[1:], -np.inf).max(axis=1)
    bounds = np.stack([*lower, upper], axis=1)
    bounds[np.isposinf(bounds) & (np.arange(n + 1) < n)] = np.nan
    labels = joint.counts[0].sum(axis=0, dtype=np.int64)
    return PhoneRanges(joint.names, np.concatenate(counts), labels / max(1, labels.sum()), bounds)


def _log_hypergeometric(
    k: Int[np.ndarray, "k"],
    marked: Int[np.ndarray, "pair 1"],
    total: Int[np.ndarray, "pair 1"],
    n: int,
    log_factorial: Float[np.ndarray, "number"],
) -> Float[np.ndarray, "pair k"]:
    """Log-probability that k of n draws without replacement are marked; minus infinity where impossible."""

    def log_choose(size: np.ndarray, k: np.ndarray | int) -> np.ndarray:
        return log_factorial[size] - log_factorial[k] - log_factorial[size - k]

    possible = (k <= marked) & (n - k <= total - marked)
    a, b = np.where(possible, marked, k), np.where(possible, total - marked, n - k)
    return np.where(possible, log_choose(a, k) + log_choose(b, n - k) - log_choose(total, n), -np.inf)


def spearman_with_order(values: Ranges) -> Float[np.ndarray, "feature"]:
    """Spearman correlation of each row with the order of its entries, without NaN entries.

    NaN for fewer than three entries, or equal ones.
    """
    known = np.isfinite(values)
    order = np.where(known, np.cumsum(known, axis=1), np.nan)
    ranks = rankdata(values, axis=1, nan_policy="omit")
    n = known.sum(axis=1)
    middle = (n[:, None] + 1) / 2
    a, b = (np.where(known, x - middle, 0.0) for x in (order, ranks))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(values), np.nan), where=(scale > 1e-9) & (n >= 3))


def ranges_between(joint: JointCounts, edges: Float[np.ndarray, "feature edge"]) -> PhoneRanges:
    """Count labels in given ranges, such as those of a scan. A bin is in the range of its middle.

    edges: ascending, ``[feature, range + 1]``; a feature with NaN has no rows in any range.
    """
    bounds = joint.bins.edges.numpy()
    middle = (bounds[:-1] + bounds[1:]) / 2  # infinite at both ends: beyond every range
    n = edges.shape[1] - 1
    index = (middle[None, None, :] >= edges[:, :, None]).sum(axis=1) - 1  # -1 below the first edge, or without edges
    counts = [
        rebin(joint.counts[part], np.where(index[part] < n, index[part], -1), n)
        for part in chunks(joint.n_features, joint.bins.n, len(joint.names))
    ]
    labels = joint.counts[0].sum(axis=0, dtype=np.int64)
    return PhoneRanges(joint.names, np.concatenate(counts), labels / max(1, labels.sum()), edges)
