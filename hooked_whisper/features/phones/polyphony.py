"""Which phones a feature answers to over the range of its activation: one at the top, more of them lower down?

Proportions, not counts: low ranges have more examples whatever the feature does. Entropies are compared at an equal
number of examples, because the entropy of few is biased low. Positions of one phone are not independent, and no formula
corrects that: take examples one per utterance (:func:`ranges_of_examples`), or compare with the same of shifted labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln
from scipy.stats import rankdata

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.features.phones.articulation import distances
from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.measures import chunks, miller_madow, quantile_bins, rebin, wilson

EQUAL_N = 20  # examples at which entropies of ranges are compared
_DRAWN_AT_ONCE = 1 << 21  # terms of the hypergeometric sum at once
_FEATURES_AT_ONCE = 1 << 11  # of the confusion test: 16 MB for each table of 1000 permutations

Ranges = Float[np.ndarray, "feature range"]


@dataclass(frozen=True, eq=False)
class PhoneRanges:
    """Labels per range of activation, lowest range first.

    Attributes:
        names: labels.
        counts: examples by feature, range, label.
        base: share of each label among all rows, for comparison.
        edges: lower bounds of the ranges and the upper bound of the last, in units of the feature, to the resolution of
            the bins; NaN where unknown or empty.
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, "feature range label"]
    base: Float[np.ndarray, "label"]
    edges: Float[np.ndarray, "feature edge"]

    @property
    def n(self) -> Int[np.ndarray, "feature range"]:
        return self.counts.sum(axis=2)

    @property
    def proportions(self) -> Float[np.ndarray, "feature range label"]:
        """NaN in empty ranges."""
        n = self.n[:, :, None]
        return np.divide(self.counts, n, out=np.full(self.counts.shape, np.nan), where=n > 0)

    @property
    def interval(self) -> tuple[Float[np.ndarray, "feature range label"], Float[np.ndarray, "feature range label"]]:
        """95 % Wilson intervals of the proportions; too narrow if the examples are neighbouring positions."""
        return wilson(self.counts, self.n[:, :, None])

    @property
    def purity(self) -> Ranges:
        """Share of the commonest label; NaN in empty ranges, biased high in small ones."""
        top, n = self.counts.max(axis=2), self.n
        return np.divide(top, n, out=np.full(n.shape, np.nan), where=n > 0)

    @property
    def majority(self) -> Int[np.ndarray, "feature"]:
        """The commonest label in the highest range that has examples; -1 if none has."""
        there = self.n > 0
        last = there.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
        return np.where(there.any(axis=1), self.counts[np.arange(len(last)), last].argmax(axis=1), -1)

    @property
    def label_counts(self) -> Int[np.ndarray, "feature label"]:
        """Examples in all ranges together."""
        return self.counts.sum(axis=1)

    def summary(self) -> RangeSummary:
        """What findings need of many features: a tenth of the memory."""
        smallest = np.int32 if self.label_counts.max(initial=0) < 2**31 else np.int64
        counts = self.label_counts.astype(smallest)
        return RangeSummary(self.names, self.equal_entropy(), counts, self.majority, self.base)

    @property
    def entropy(self) -> Ranges:
        """H(label | range) in nats, Miller-Madow corrected, from all examples of the range; NaN in empty ranges."""
        return miller_madow(self.counts)

    @property
    def effective(self) -> Ranges:
        """exp(H): as many equally frequent labels would have this entropy."""
        return np.exp(self.entropy)

    def equal_entropy(self, n: int = EQUAL_N) -> Ranges:
        """Mean plug-in entropy (nats) of n examples drawn without replacement from each range: the same bias for all.

        Exact (hypergeometric), no sampling. NaN where a range has fewer than n examples. Source: rarefaction as in
        Hurlbert 1971, "The nonconcept of species diversity", applied to entropy.
        """
        if n < 2:
            raise PatchError(f"entropies are compared at 2 examples or more, not {n}")
        k = np.arange(1, n + 1)
        terms = -(k / n) * np.log(k / n)
        found = np.full(self.counts.shape[:2], np.nan)
        enough = self.n >= n
        counts, totals = self.counts[enough], self.n[enough]
        log_factorial = gammaln(np.arange(int(totals.max(initial=n)) + 1) + 1.0)  # looked up: thirty times as fast
        # a label's term follows from its count and the range's total; most pairs of these come many times
        size = int(totals.max(initial=0)) + 1
        pairs, place = np.unique(counts.astype(np.int64) * size + totals[:, None], return_inverse=True)
        step = max(1, _DRAWN_AT_ONCE // n)
        parts = [
            (np.exp(_log_hypergeometric(k, pair // size, pair % size, n, log_factorial)) * terms).sum(axis=1)
            for pair in (pairs[at : at + step, None] for at in range(0, len(pairs), step))
        ]
        if parts:
            found[enough] = np.concatenate(parts)[place.reshape(counts.shape)].sum(axis=1)
        return found

    def trend(self, n: int = EQUAL_N) -> Float[np.ndarray, "feature"]:
        """Spearman correlation of :meth:`equal_entropy` with the order of the ranges: negative if the label is surer
        the stronger the activation. NaN with fewer than three ranges of n examples, or equal entropies.

        Where labels do not depend on activation its mean is 0 for ranges of one size. Entropies of small ranges are
        skewed though their mean is right: with 2,000 rows in the lowest range and 30 in the highest, it is about 0.09.
        """
        return spearman_with_order(self.equal_entropy(n))

    def published_counts(
        self, most: int = 5
    ) -> tuple[Int[np.ndarray, "feature label"], Int[np.ndarray, "feature range label"]]:
        """The published plot: the commonest labels of each feature, most frequent first, and their counts per range."""
        order = np.argsort(-self.counts.sum(axis=1), axis=1, kind="stable")[:, :most]
        return order, np.take_along_axis(self.counts, order[:, None, :], axis=2)


@dataclass(frozen=True, eq=False)
class RangeSummary:
    """:class:`PhoneRanges` without the counts of each range.

    Attributes:
        names, majority, label_counts, base: as there.
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
        """Of other features, on the same rows with the same labels."""
        return replace(
            parts[0],
            equal_entropies=np.concatenate([one.equal_entropies for one in parts]),
            label_counts=np.concatenate([one.label_counts for one in parts]),
            majority=np.concatenate([one.majority for one in parts]),
        )


def active_ranges(joint: JointCounts, kind: Literal["deciles", "width"], n_ranges: int | None = None) -> PhoneRanges:
    """Ranges of the active values (above the bin about zero) of all rows counted.

    Args:
        kind: ``"deciles"``: ranges with equally many rows (10 unless said; ties, that is bins, are not cut);
            ``"width"``: of equal width from zero to the end of the largest value's bin (5 unless said: bins resolve
            an eighth of an octave, so more ranges would be narrower than the highest bins).
    """
    check_option("kind", kind, ("deciles", "width"), PatchError)
    n = (10 if kind == "deciles" else 5) if n_ranges is None else n_ranges
    if n < 1:
        raise PatchError(f"there must be a range at least, not {n}")
    zero = joint.bins.per_sign
    active = joint.totals.copy()
    active[:, : zero + 1] = 0
    range_of_bin = quantile_bins(active, n) if kind == "deciles" else _width_bins(joint, active, n)
    return _ranges(joint, np.where(active > 0, range_of_bin, -1), n)


def signed_ranges(joint: JointCounts, n_ranges: int = 10) -> PhoneRanges:
    """Ranges with equally many rows of all values, negative ones and zero too (they are one range if most rows)."""
    return _ranges(joint, np.where(joint.totals > 0, quantile_bins(joint.totals, n_ranges), -1), n_ranges)


def ranges_of_examples(
    ids: Int[np.ndarray, "feature range example"],
    names: tuple[str, ...],
    base: Float[np.ndarray, "label"],
    edges: Float[np.ndarray, "feature edge"] | None = None,
) -> PhoneRanges:
    """From labels of sampled examples, say 50 of each range, one per utterance; negative ids are left out.

    Raises:
        PatchError: an id beyond the names.
    """
    if ids.size and ids.max() >= len(names):
        raise PatchError(f"ids are below {len(names)}, got {ids.max()}")
    n_features, n_ranges, _ = ids.shape
    there = ids >= 0
    bin = np.arange(n_features * n_ranges).reshape(n_features, n_ranges, 1) * len(names) + ids
    counts = np.bincount(bin[there], minlength=n_features * n_ranges * len(names))
    bounds = np.full((n_features, n_ranges + 1), np.nan) if edges is None else edges
    return PhoneRanges(tuple(names), counts.reshape(n_features, n_ranges, len(names)), base, bounds)


@dataclass(frozen=True, eq=False)
class ConfusionTest:
    """Whether what a feature confuses with its phone is articulatorily nearer to it than chance.

    distance: mean articulatory distance of the other labels' examples to the majority label's, per feature.
    expected: the same on average over permutations; p_value: share of permutations (the data counted in) at or below.
    pooled_p: of the mean over features, with the same permutations for all of them.
    """

    majority: Int[np.ndarray, "feature"]
    distance: Float[np.ndarray, "feature"]
    expected: Float[np.ndarray, "feature"]
    p_value: Float[np.ndarray, "feature"]
    pooled_p: float


def confusions(ranges: PhoneRanges | RangeSummary, rng: np.random.Generator, permutations: int = 1000) -> ConfusionTest:
    """Distance of the confusions in all ranges together to the label that rules the highest one.

    The null hypothesis deals out, among the labels that are not the majority's, how far each is over- or
    under-represented (its count over its base rate), and leaves the base rates where they are. So a label that is
    near and merely common is no evidence. Labels without articulation (silence) take no part; a feature whose majority
    is one of them, or that confuses nothing, has NaN.
    """
    table = distances(ranges.names)
    usable = np.isfinite(np.diagonal(table)) & (ranges.base > 0)
    majority = ranges.majority
    judged = np.flatnonzero((majority >= 0) & usable[majority])
    kept = np.flatnonzero(usable)
    base, table = ranges.base[kept], table[np.ix_(kept, kept)]
    own = np.searchsorted(kept, majority[judged])
    confused = ranges.label_counts[np.ix_(judged, kept)].sum(axis=1) > ranges.label_counts[judged, majority[judged]]
    judged, own = judged[confused], own[confused]
    # one permutation of the inventory for all features keeps their dependence
    orders = np.array([rng.permutation(len(kept)) for _ in range(permutations)]).reshape(permutations, len(kept))

    true, total, below = np.zeros(len(judged)), np.zeros(len(judged)), np.ones(len(judged))
    pooled = np.zeros(permutations)
    for label in np.unique(own):
        mine = base.copy()
        mine[label] = 0  # the majority is no confusion of itself
        near = mine * table[label]
        dealt = _dealt(orders, int(label))
        members = np.flatnonzero(own == label)
        for at in range(0, len(members), _FEATURES_AT_ONCE):
            some = members[at : at + _FEATURES_AT_ONCE]
            counts = ranges.label_counts[np.ix_(judged[some], kept)].astype(float)
            excess = np.divide(counts, mine, out=np.zeros(counts.shape), where=mine > 0)
            true[some] = (excess * near).sum(axis=1) / (excess * mine).sum(axis=1)
            # excess dealt out and weighted is excess times the weights dealt back
            drawn = (excess @ near[dealt].T) / (excess @ mine[dealt].T)
            below[some] += (drawn <= true[some, None] + 1e-12).sum(axis=1)
            total[some] += drawn.sum(axis=1)
            pooled += drawn.sum(axis=0)
    found = np.full((3, len(majority)), np.nan)
    found[:, judged] = true, total / max(1, permutations), below / (permutations + 1)
    near_by_chance = 1 + (pooled / max(1, len(true)) <= true.mean() + 1e-12).sum() if len(true) else float("nan")
    return ConfusionTest(majority, found[0], found[1], found[2], float(near_by_chance / (permutations + 1)))


def _dealt(orders: Int[np.ndarray, "permutation label"], own: int) -> Int[np.ndarray, "permutation label"]:
    """To which label each one's excess is dealt, if place j gets that of ``order[j]``; but that ``own`` keeps its
    place: the place that drew it gets what it drew."""
    row = np.arange(len(orders))
    drawn = orders.copy()
    drawn[row, np.argsort(orders, axis=1)[:, own]] = orders[:, own]
    drawn[:, own] = own
    return np.argsort(drawn, axis=1)


def _width_bins(joint: JointCounts, active: Int[np.ndarray, "feature bin"], n: int) -> Int[np.ndarray, "feature bin"]:
    """A bin is in the range that its middle is in; the outermost, which has no end, counts from its edge."""
    edges = joint.bins.edges.numpy()
    upper = np.where(np.isfinite(edges[1:]), edges[1:], edges[:-1])
    middle = (np.maximum(edges[:-1], -upper.max()) + upper) / 2
    there = active > 0
    top = np.where(there, upper, 0).max(axis=1, keepdims=True)
    return np.clip((middle / np.where(top > 0, top, 1) * n).astype(np.int64), 0, n - 1)


def _ranges(joint: JointCounts, range_of_bin: Int[np.ndarray, "feature bin"], n: int) -> PhoneRanges:
    parts = chunks(joint.n_features, joint.bins.n, len(joint.names))
    counts = [rebin(joint.counts[some], range_of_bin[some], n) for some in parts]
    edges = joint.bins.edges.numpy()
    lower = [np.where((range_of_bin == b) & (joint.totals > 0), edges[:-1], np.inf).min(axis=1) for b in range(n)]
    upper = np.where((range_of_bin >= 0) & (joint.totals > 0), edges[1:], -np.inf).max(axis=1)
    bounds = np.stack([*lower, upper], axis=1)
    bounds[np.isposinf(bounds) & (np.arange(n + 1) < n)] = np.nan
    labels = joint.counts[0].sum(axis=0, dtype=np.int64)
    return PhoneRanges(joint.names, np.concatenate(counts), labels / max(1, labels.sum()), bounds)


def _log_hypergeometric(
    k: Int[np.ndarray, "k"],
    marked: Int[np.ndarray, "pair one"],
    total: Int[np.ndarray, "pair one"],
    n: int,
    log_factorial: Float[np.ndarray, "number"],
) -> Float[np.ndarray, "pair k"]:
    """log P(k of n draws without replacement are marked); minus infinity where impossible."""

    def log_choose(of: np.ndarray, chosen: np.ndarray | int) -> np.ndarray:
        return log_factorial[of] - log_factorial[chosen] - log_factorial[of - chosen]

    possible = (k <= marked) & (n - k <= total - marked)
    a, b = np.where(possible, marked, k), np.where(possible, total - marked, n - k)
    return np.where(possible, log_choose(a, k) + log_choose(b, n - k) - log_choose(total, n), -np.inf)


def spearman_with_order(values: Ranges) -> Float[np.ndarray, "feature"]:
    """Rank correlation of each row with the order of its entries, those that are NaN left out; NaN for fewer than three
    entries, or equal ones."""
    there = np.isfinite(values)
    order = np.where(there, np.cumsum(there, axis=1), np.nan)
    ranks = rankdata(values, axis=1, nan_policy="omit")
    n = there.sum(axis=1)
    middle = (n[:, None] + 1) / 2
    a, b = (np.where(there, x - middle, 0.0) for x in (order, ranks))
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(values), np.nan), where=(scale > 1e-9) & (n >= 3))


def ranges_between(joint: JointCounts, edges: Float[np.ndarray, "feature edge"]) -> PhoneRanges:
    """Labels in ranges that somebody else drew, such as a scan's: a bin is in the range that its middle is in.

    edges: rising, ``[feature, range + 1]``; a feature with NaN has no rows in any range.
    """
    bounds = joint.bins.edges.numpy()
    middle = (bounds[:-1] + bounds[1:]) / 2  # infinite at both ends: beyond every range
    n = edges.shape[1] - 1
    at = (middle[None, None, :] >= edges[:, :, None]).sum(axis=1) - 1  # -1 below the first edge, or without edges
    counts = [
        rebin(joint.counts[some], np.where(at[some] < n, at[some], -1), n)
        for some in chunks(joint.n_features, joint.bins.n, len(joint.names))
    ]
    labels = joint.counts[0].sum(axis=0, dtype=np.int64)
    return PhoneRanges(joint.names, np.concatenate(counts), labels / max(1, labels.sum()), edges)
