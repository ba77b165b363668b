"""Selectivity from dense histograms of all features: the reference for the evaluation by blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.features.phones.joint_histogram import JointCounts
from hooked_whisper.features.phones.measures import average_precision, entropy, information, quantile_bins, rebin
from hooked_whisper.protocols import SILENCE

Counts = Int[np.ndarray, "feature bin label"]
Totals = Int[np.ndarray, "feature bin"]
ByLabel = Float[np.ndarray, "feature label"]


def roc_auc(hits: Counts, totals: Totals) -> ByLabel:
    """Probability that a row with the label has a higher value than a row without it; ties count half.

    1 - AUC is that of the negated feature. NaN where all rows or none have the label.
    """
    h = hits.astype(np.float64)
    others = totals[:, :, None] - h
    below = np.cumsum(others, axis=1)
    wins = (h * (below - others / 2)).sum(axis=1)
    pairs = h.sum(axis=1) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)


def best_thresholds(hits: Counts, totals: Totals) -> tuple[ByLabel, Int[np.ndarray, "feature label"]]:
    """Best F1 of a detector that fires from a bin upward, and the bin (the highest of equals)."""
    h = hits[:, ::-1].astype(np.float64)
    detected = np.cumsum(totals[:, ::-1], axis=1, dtype=np.float64)[:, :, None]
    truth = h.sum(axis=1, keepdims=True)
    f1 = np.cumsum(2 * h, axis=1) / np.maximum(detected + truth, 1)
    best_bin = f1.argmax(axis=1)
    best = np.take_along_axis(f1, best_bin[:, None], axis=1)[:, 0]
    return best, hits.shape[1] - 1 - best_bin


def detections(
    hits: Counts, totals: Totals, bins: Int[np.ndarray, "feature label"]
) -> tuple[Int[np.ndarray, "feature label"], Int[np.ndarray, "feature label"]]:
    """Rows at or above a bin: those with the label, and all rows."""
    true = np.cumsum(hits[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    detected = np.cumsum(totals[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    return np.take_along_axis(true, bins[:, None], axis=1)[:, 0], np.take_along_axis(detected, bins, axis=1)


def dense_selectivity(
    folds: Sequence[JointCounts], min_tokens: int, shifted: JointCounts | None = None
) -> dict[str, np.ndarray]:
    """The fields of :class:`Selectivity` that :func:`cross_selectivity` computes."""
    whole = reduce(add, folds)
    tokens = whole.tokens
    searched = (tokens >= min_tokens) & np.array([name != SILENCE for name in whole.names])
    feature = np.arange(whole.n_features)
    f1, sign, bin = _fit(whole)
    best = np.where(searched, f1, -1.0).argmax(axis=1)
    pooled = np.zeros((3, *f1.shape), dtype=np.int64)
    of_best, same = pooled[:, :, 0].copy(), np.zeros(len(feature))
    for i, test in enumerate(folds):
        trained, fold_sign, fold_cell = _fit(reduce(add, [fitted for j, fitted in enumerate(folds) if j != i]))
        choice = np.where(searched, trained, -1.0).argmax(axis=1)
        high = detections(test.counts, test.totals, fold_cell)
        low = detections(test.counts[:, ::-1], test.totals[:, ::-1], fold_cell)
        hits, detected = (np.where(fold_sign > 0, a, b) for a, b in zip(high, low, strict=True))
        result = np.stack([hits, detected, test.counts.sum(axis=1)])
        pooled, of_best = pooled + result, of_best + result[:, feature, choice]
        same += (choice == best) / len(folds)
    edges = whole.bins.edges.numpy()
    threshold = np.where(sign > 0, edges[bin], edges[len(edges) - 1 - bin])
    auc, up = roc_auc(whole.counts, whole.totals), sign[feature, best] > 0
    precisions = [average_precision(whole.counts[:, ::step], whole.totals[:, ::step]) for step in (1, -1)]
    bits, share = _information(whole, shifted)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "tokens": tokens,
            "searched": searched,
            "best": best,
            "sign": sign[feature, best],
            "threshold": threshold[feature, best],
            "f1": 2 * of_best[0] / (of_best[1] + of_best[2]),
            "precision": of_best[0] / of_best[1],
            "recall": of_best[0] / of_best[2],
            "agreement": same,
            "auc": np.where(up, auc[feature, best], 1 - auc[feature, best]),
            "average_precision": np.where(up, *(x[feature, best] for x in precisions)),
            "prevalence": whole.counts.sum(axis=1)[feature, best] / whole.totals.sum(axis=1),
            "information": bits,
            "information_share": share,
            "auc_by_label": auc,
            "f1_by_label": 2 * pooled[0] / (pooled[1] + pooled[2]),
            "shares": whole.counts[0].sum(axis=0) / whole.rows,
        }


def _fit(counts: JointCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    high, above = best_thresholds(counts.counts, counts.totals)
    low, below = best_thresholds(counts.counts[:, ::-1], counts.totals[:, ::-1])
    positive = high >= low
    return np.where(positive, high, low), np.where(positive, 1, -1), np.where(positive, above, below)


def _information(whole: JointCounts, shifted: JointCounts | None) -> tuple[np.ndarray, np.ndarray]:
    if not np.array_equal(whole.counts.sum(axis=2), whole.totals):
        return (np.full(whole.n_features, np.nan),) * 2
    range_of_bin = quantile_bins(whole.totals)
    joint = rebin(whole.counts, range_of_bin, 10)
    nats = information(joint) - (0 if shifted is None else information(rebin(shifted.counts, range_of_bin, 10)))
    return nats / np.log(2), nats / entropy(joint.sum(axis=1))
