"""How selective features are for phones or classes of phones: threshold and phone from some speakers, F1 on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted, joined
from hooked_whisper.errors import PatchError
from hooked_whisper.features.phones.cumulative import CumulativeCounts
from hooked_whisper.features.phones.joint_histogram import JointCounts, check_alike
from hooked_whisper.features.phones.measures import (
    average_precision,
    entropy,
    information,
    quantile_bins,
)
from hooked_whisper.protocols import SILENCE

MIN_TOKENS = 50
_AT_ONCE = 1024  # features times labels per block: about 1 MB per intermediate array
_BY_LABEL = ("auc_by_label", "f1_by_label", "precision_by_label", "recall_by_label")
ByFeature = Float[np.ndarray, "feature"]
ByLabel = Float[np.ndarray, "feature label"]


@dataclass(frozen=True, eq=False, repr=False)
class Selectivity(Tabular):
    """How well each feature detects its best label: by values at or above a threshold (sign 1), or at or below (-1).

    Attributes:
        names, tokens: labels, and the number of instances of each in the evaluation.
        searched: labels that can be the best: those with enough tokens, except silence.
        best: label with the highest F1 on the training rows; -1 if none was searched.
        sign, threshold: of its detector, from the training rows.
        f1, precision, recall: on held-out rows, of a search over label, sign and threshold on the other rows. The rows
            of several folds are pooled; the searches of different folds may find different labels.
        agreement: share of folds whose search found ``best``.
        auc: of ``best`` and ``sign`` on held-out rows; chance is 0.5.
        average_precision, prevalence: of ``best``, and its chance level.
        information: bits about the label (any label, silence too) in the feature's decile, minus the bias: that of
            circularly shifted labels if given, else Miller-Madow's. NaN for overlapping classes.
        information_share: ``information`` divided by the labels' entropy.
        auc_by_label: of every label, for high values; ``1 - auc`` for low ones.
        f1_by_label, precision_by_label, recall_by_label: held-out scores of every label, with sign and threshold from
            the training rows.
        shares: share of the held-out rows with each label.
    """

    names: tuple[str, ...]
    tokens: Int[np.ndarray, "label"]
    searched: Bool[np.ndarray, "label"]
    best: Int[np.ndarray, "feature"]
    sign: Int[np.ndarray, "feature"]
    threshold: ByFeature
    f1: ByFeature
    precision: ByFeature
    recall: ByFeature
    agreement: ByFeature
    auc: ByFeature
    average_precision: ByFeature
    prevalence: ByFeature
    information: ByFeature
    information_share: ByFeature
    auc_by_label: Float[np.ndarray, "feature _"]
    f1_by_label: Float[np.ndarray, "feature _"]
    precision_by_label: Float[np.ndarray, "feature _"]
    recall_by_label: Float[np.ndarray, "feature _"]
    shares: Float[np.ndarray, "label"]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Name of each feature's best label; empty if none was searched."""
        return tuple(self.names[i] if i >= 0 else "" for i in self.best)

    @property
    def rare(self) -> tuple[str, ...]:
        """Labels with too few tokens to be searched."""
        silent = np.array([name == SILENCE for name in self.names], dtype=bool)
        return tuple(self.names[i] for i in np.flatnonzero(~self.searched & ~silent))

    def without_tables(self) -> Selectivity:
        """Copy without the scores of every label, which take most of the memory."""
        empty: dict[str, Any] = dict.fromkeys(_BY_LABEL, np.zeros((len(self.best), 0)))
        return replace(self, **empty)

    @staticmethod
    def joined(parts: Sequence[Selectivity]) -> Selectivity:
        """Concatenate blocks of features that were counted on the same rows and labels."""
        common = ("names", "tokens", "searched", "shares")
        names = [field.name for field in fields(Selectivity) if field.name not in common]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **columns)

    def summary(self) -> Summary:
        n_features, n_labels = len(self.best), int(self.searched.sum())
        title = f"Selectivity: {counted(n_features, 'feature')}, {counted(n_labels, 'label')}"
        notes = (
            f"mean held-out F1 {float(np.nanmean(self.f1)) if n_features else float('nan'):.3g}; the most selective:",
            *((f"too rare: {joined(self.rare)}",) if self.rare else ()),
        )
        order = np.argsort(-np.nan_to_num(self.f1), kind="stable")[:12]
        rows = tuple(
            (int(k), self.labels[k], "high" if self.sign[k] > 0 else "low", *(float(x[k]) for x in self._columns))
            for k in order
        )
        columns = ("feature", "label", "values", "F1", "precision", "recall", "AUC", "information (bits)")
        return Summary(title, notes, columns, rows, n_features)

    @property
    def _columns(self) -> tuple[ByFeature, ...]:
        return (self.f1, self.precision, self.recall, self.auc, self.information)

    def plot(self, most: int = 30, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the held-out F1 of every searched label for the ``most`` selective features.

        Raises:
            PatchError: this copy has no tables (:meth:`without_tables`).
        """
        if not self.f1_by_label.shape[1]:
            raise PatchError("this copy has no table of F1 by label (without_tables): plot the original")
        order = np.argsort(-np.nan_to_num(self.f1), kind="stable")[:most]
        labels = np.flatnonzero(self.searched)
        return heat_map(
            self.f1_by_label[np.ix_(order, labels)].astype(float),
            title=title or "Held-out F1 by label, most selective features",
            x="label",
            y="feature",
            unit="F1",
            rows=[str(k) for k in order],
            columns=[self.names[k] for k in labels],
            facecolor="white",
            backend=backend,
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict per feature."""
        numbers = (
            "sign", "threshold", "f1", "precision", "recall", "agreement", "auc", "average_precision", "prevalence",
            "information", "information_share",
        )  # fmt: skip
        columns = {name: getattr(self, name).tolist() for name in numbers}
        return [
            {"feature": i, "label": label} | {name: values[i] for name, values in columns.items()}
            for i, label in enumerate(self.labels)
        ]


@dataclass(frozen=True, repr=False)
class Coverage(Showing):
    """The searched labels that some feature detects, and those that none detects."""

    covered: tuple[str, ...]
    missed: tuple[str, ...]

    def summary(self) -> Summary:
        rows = (("detected", joined(self.covered, 40) or "none"), ("missed", joined(self.missed, 40) or "none"))
        n = len(self.covered) + len(self.missed)
        return Summary(f"Coverage: {len(self.covered)} of {counted(n, 'label')}", rows=rows)

    @property
    def share(self) -> float:
        n = len(self.covered) + len(self.missed)
        return len(self.covered) / n if n else float("nan")


@renamed_arguments(found="selectivity")
def coverage(selectivity: Selectivity, auc: float | int = 0.95, f1: float | int = 0.7) -> Coverage:
    """Labels for which some feature has at least this AUC (either sign) or this held-out F1.

    Features are selected on the rows they are evaluated on: compare with shifted labels and random directions.
    """
    by_auc = np.maximum(selectivity.auc_by_label, 1 - selectivity.auc_by_label) >= auc
    detected = (by_auc | (selectivity.f1_by_label >= f1)).any(axis=0)
    names = np.array(selectivity.names, dtype=object)
    covered, missed = (tuple(names[selectivity.searched & mask]) for mask in (detected, ~detected))
    return Coverage(covered, missed)


def selectivity(
    train: JointCounts, test: JointCounts, min_tokens: int = MIN_TOKENS, shifted: JointCounts | None = None
) -> Selectivity:
    """Fit labels, signs and thresholds on ``train`` and evaluate them on ``test`` (other speakers).

    Args:
        min_tokens: labels with fewer tokens in ``test`` are not searched (see ``rare``).
        shifted: counts of the test rows with circularly shifted labels; their information is subtracted.

    Raises:
        PatchError: features, labels or bins of the counts differ.
    """
    return _assess((train, test), [((0,), (1,))], min_tokens, shifted)


def cross_selectivity(
    folds: Sequence[JointCounts], min_tokens: int = MIN_TOKENS, shifted: JointCounts | None = None
) -> Selectivity:
    """Evaluate each fold (one or several speakers) with a search on all others, and pool the detections.

    ``best``, ``sign`` and ``threshold`` come from all folds. F1, precision and recall are those of such a search on
    unseen speakers. Arguments are as for :func:`selectivity`.

    Raises:
        PatchError: fewer than two folds, or counts that cannot be combined.
    """
    if len(folds) < 2:
        raise PatchError(f"cross-fitting got {len(folds)} folds, expected at least 2: count speakers separately")
    indices = range(len(folds))
    return _assess(tuple(folds), [(tuple(j for j in indices if j != i), (i,)) for i in indices], min_tokens, shifted)


Split = tuple[tuple[int, ...], tuple[int, ...]]  # indices of the parts to train on and to test on


def _assess(
    parts: tuple[JointCounts, ...], splits: Sequence[Split], min_tokens: int, shifted: JointCounts | None
) -> Selectivity:
    first = parts[0]
    for other in (*parts[1:], *(() if shifted is None else (shifted,))):
        check_alike(first, other)
    tested = sorted({i for _, test in splits for i in test})
    tokens = np.sum([parts[i].tokens for i in tested], axis=0)
    searched = (tokens >= min_tokens) & np.array([name != SILENCE for name in first.names], dtype=bool)
    if not first.names:  # too few phones for any class
        return _of_no_labels(first.n_features)
    blocks = [
        _assess_chunk(
            [p.select(block) for p in parts], splits, searched, None if shifted is None else shifted.select(block)
        )
        for block in _chunks(first.n_features, len(first.names))
    ]
    joined = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    rows = sum(parts[i].rows for i in tested)
    shares = sum(parts[i].counts[0].sum(axis=0) for i in tested) / max(rows, 1)
    return Selectivity(first.names, tokens, searched, shares=shares, **joined)


def _chunks(n_features: int, n_labels: int) -> list[slice]:
    """Blocks of features that fit the cache."""
    step = max(1, _AT_ONCE // n_labels)
    return [slice(start, min(start + step, n_features)) for start in range(0, n_features, step)]


def _of_no_labels(n: int) -> Selectivity:
    whole, table = np.zeros(n, dtype=np.int64), np.zeros((n, 0))
    measured = (
        "threshold", "f1", "precision", "recall", "agreement", "auc", "average_precision", "prevalence", "information",
        "information_share",
    )  # fmt: skip
    return Selectivity(
        names=(),
        tokens=np.zeros(0, dtype=np.int64),
        searched=np.zeros(0, dtype=bool),
        best=whole - 1,
        sign=whole,
        shares=np.zeros(0),
        **dict.fromkeys(_BY_LABEL, table),
        **{name: np.full(n, np.nan) for name in measured},
    )


def _assess_chunk(
    parts: list[JointCounts], splits: Sequence[Split], searched: Bool[np.ndarray, "label"], shifted: JointCounts | None
) -> dict[str, np.ndarray]:
    used = _occupied(parts)
    edges = parts[0].bins.edges.numpy()[used.start : used.stop + 1]
    sums = [CumulativeCounts.of(part, used) for part in parts]
    feature = np.arange(parts[0].n_features)
    whole = reduce(add, sums)
    trained, tested = ({i for split in splits for i in split[k]} for k in (0, 1))
    test = _total(sums, tested, whole)
    detectors = _Detectors.fit(_total(sums, trained, whole))
    best = detectors.choose(searched)
    pooled = np.zeros((3, len(feature), len(searched)))
    of_best, agreement = pooled[:, :, 0].copy(), np.zeros(len(feature))
    for training, testing in splits:
        fitted = detectors if len(splits) == 1 else _Detectors.fit(_total(sums, set(training), whole))
        detections = fitted.apply(_total(sums, set(testing), whole))
        choice = fitted.choose(searched)
        pooled += detections
        of_best += detections[:, feature, choice]
        agreement += (choice == best) / len(splits)
    hits, detected, truth = of_best
    counts = test.counts
    sign, auc = detectors.sign[feature, best], test.auc
    bits, share = _information(test, None if shifted is None else CumulativeCounts.of(shifted, used))
    any_searched = bool(searched.any())
    measured = {
        "f1": _ratio(2 * hits, detected + truth),
        "precision": _ratio(hits, detected),
        "recall": _ratio(hits, truth),
        "agreement": agreement,
        "threshold": detectors.threshold(edges)[feature, best],
        "auc": np.where(sign > 0, auc[feature, best], 1 - auc[feature, best]),
        "average_precision": _average_precision(counts[feature, best], test.totals, sign),
        "prevalence": _ratio(test.rows[feature, best], test.up_totals[:, -1]),
    }
    return {
        "best": best if any_searched else np.full(len(feature), -1),
        "sign": sign if any_searched else np.zeros(len(feature), dtype=np.int64),
        **{name: values if any_searched else np.full(len(feature), np.nan) for name, values in measured.items()},
        "information": bits,
        "information_share": share,
        "auc_by_label": auc,
        "f1_by_label": _ratio(2.0 * pooled[0], pooled[1] + pooled[2]),
        "precision_by_label": _ratio(pooled[0], pooled[1]),
        "recall_by_label": _ratio(pooled[0], pooled[2]),
    }


def _occupied(parts: Sequence[JointCounts]) -> slice:
    """Slice from the first to the last non-empty bin: the bins outside change no measure and cost time."""
    filled = np.flatnonzero(np.any([part.totals.any(axis=0) for part in parts], axis=0))
    return slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 1)


def _total(sums: Sequence[CumulativeCounts], indices: set[int], whole: CumulativeCounts) -> CumulativeCounts:
    """Sum of the parts at ``indices``, computed by subtraction where that is faster."""
    missing = [i for i in range(len(sums)) if i not in indices]
    if not missing:
        return whole
    if len(missing) < len(indices):
        return whole - reduce(add, [sums[i] for i in missing])
    return reduce(add, [sums[i] for i in sorted(indices)])


@dataclass(frozen=True, eq=False)
class _Detectors:
    """The best detector of every label with every feature.

    ``bin`` is the bin at which it fires, counted from the high end for sign 1 and from the low end for sign -1.
    """

    f1: ByLabel
    sign: Int[np.ndarray, "feature label"]
    bin: Int[np.ndarray, "feature label"]

    @classmethod
    def fit(cls, sums: CumulativeCounts) -> _Detectors:
        truth = np.maximum(sums.rows[:, :, None], 0.5)  # makes F1 zero rather than undefined for a label without rows
        high, above = _best_bin(sums.down, sums.down_totals, truth)
        low, below = _best_bin(sums.up, sums.up_totals, truth)
        positive = high >= low
        return cls(np.where(positive, high, low), np.where(positive, 1, -1), np.where(positive, above, below))

    def choose(self, searched: Bool[np.ndarray, "label"]) -> Int[np.ndarray, "feature"]:
        """Label with the highest F1."""
        return np.where(searched, self.f1, -1.0).argmax(axis=1)

    def apply(self, test: CumulativeCounts) -> Float[np.ndarray, "three feature label"]:
        """Rows detected correctly, rows detected, and rows with the label."""
        bin, positive = self.bin[:, :, None], self.sign > 0
        hits = [np.take_along_axis(x, bin, axis=2)[:, :, 0] for x in (test.down, test.up)]
        detected = [np.take_along_axis(x, self.bin, axis=1) for x in (test.down_totals, test.up_totals)]
        return np.stack([np.where(positive, *hits), np.where(positive, *detected), test.rows])

    def threshold(self, edges: Float[np.ndarray, "edge"]) -> ByLabel:
        """Value at or beyond which a detector fires."""
        return np.where(self.sign > 0, edges[len(edges) - 2 - self.bin], edges[self.bin + 1])


def _best_bin(
    hits: Float[np.ndarray, "feature label bin"],
    totals: Float[np.ndarray, "feature bin"],
    truth: Float[np.ndarray, "feature label 1"],
) -> tuple[ByLabel, Int[np.ndarray, "feature label"]]:
    """Best F1 of a detector that fires up to a bin, and the bin (the first of equals)."""
    f1 = totals[:, None, :] + truth
    np.divide(hits, f1, out=f1)
    bin = f1.argmax(axis=2)
    return 2 * np.take_along_axis(f1, bin[:, :, None], axis=2)[:, :, 0], bin


def _average_precision(
    hits: Int[np.ndarray, "feature bin"], totals: Int[np.ndarray, "feature bin"], sign: Int[np.ndarray, "feature"]
) -> ByFeature:
    """Average precision of one label per feature, for its sign."""
    forward = (sign > 0)[:, None]
    ordered = [np.where(forward, x, x[:, ::-1]) for x in (hits, totals)]
    return average_precision(ordered[0][:, :, None], ordered[1])[:, 0]


def _information(test: CumulativeCounts, shifted: CumulativeCounts | None) -> tuple[ByFeature, ByFeature]:
    totals = test.totals
    if not np.array_equal(test.counts.sum(axis=1), totals):  # overlapping classes: a row has several labels
        return (np.full(len(totals), np.nan),) * 2
    range_of_bin = quantile_bins(totals)
    joint = test.rebinned(range_of_bin, 10)
    nats = information(joint)
    if shifted is not None:  # the Miller-Madow correction is nearly the same in both and cancels
        nats = nats - information(shifted.rebinned(range_of_bin, 10))
    return nats / np.log(2), _ratio(nats, entropy(joint.sum(axis=1)))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) > 0)
