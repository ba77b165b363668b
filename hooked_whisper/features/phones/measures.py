"""Measures of how well values discriminate labels, computed from histograms and vectorized over features and labels.

``hits`` is ``[feature, bin, label]`` and ``totals`` is ``[feature, bin]``, with bins in the order of their values.
Values in one bin are ties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

_COUNTS_AT_ONCE = 1 << 17  # float64 entries per block: 1 MB, which fits the cache

Counts = Int[np.ndarray, "feature bin label"]
Totals = Int[np.ndarray, "feature bin"]
ByLabel = Float[np.ndarray, "feature label"]


def chunks(n_features: int, n_bins: int, n_labels: int) -> Iterator[slice]:
    """Slices of features whose histograms fit in the cache."""
    step = max(1, _COUNTS_AT_ONCE // max(1, n_bins * n_labels))
    return (slice(start, min(start + step, n_features)) for start in range(0, n_features, step))


def average_precision(hits: Counts, totals: Totals) -> ByLabel:
    """Precision at each threshold, weighted by the gain in recall. Chance is the label's prevalence.

    Thresholds are the bins, high values first; pass ``hits[:, ::-1], totals[:, ::-1]`` for the negated feature. NaN for
    a label without rows. Source: scikit-learn's ``average_precision_score``.
    """
    h = hits[:, ::-1].astype(np.float64)
    detected = np.cumsum(totals[:, ::-1], axis=1, dtype=np.float64)[:, :, None]
    precision = np.divide(np.cumsum(h, axis=1), detected, out=np.zeros(h.shape), where=detected > 0)
    truth = h.sum(axis=1)
    return np.divide((h * precision).sum(axis=1), truth, out=np.full(truth.shape, np.nan), where=truth > 0)


def quantile_bins(totals: Totals, n_ranges: int = 10) -> Int[np.ndarray, "feature bin"]:
    """Quantile of each bin, by the mid-rank of its rows. Some quantiles are empty if a bin has many rows."""
    rows = np.cumsum(totals, axis=1, dtype=np.float64)
    middle = (rows - totals / 2) / np.maximum(rows[:, -1:], 1)
    return np.minimum((middle * n_ranges).astype(np.int64), n_ranges - 1)


def rebin(
    hits: Counts, range_of_bin: Int[np.ndarray, "feature bin"], n_ranges: int
) -> Int[np.ndarray, "feature range label"]:
    """Histogram over ranges of bins. Bins with range -1 are dropped; the other ranges must not decrease."""
    member = (range_of_bin[:, None, :] == np.arange(n_ranges)[:, None]).astype(np.float64)
    return (member @ hits.astype(np.float64)).astype(np.int64)  # exact: sums of whole numbers below 2**53


def entropy(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Plug-in entropy in nats along an axis; NaN without rows."""
    total = counts.sum(axis=axis, keepdims=True)
    p = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=axis)


def miller_madow(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Entropy in nats with first-order bias correction, (number of values seen - 1) / (2 rows).

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    n = counts.sum(axis=axis)
    seen = (counts > 0).sum(axis=axis)
    return entropy(counts, axis) + np.divide(seen - 1, 2 * n, out=np.full(n.shape, np.nan), where=n > 0)


def information(joint: Int[np.ndarray, "feature range label"]) -> Float[np.ndarray, "feature"]:
    """I(range; label) in nats, Miller-Madow corrected. Its mean for independent rows is about 0: it may be negative."""
    flat = joint.reshape(len(joint), -1)
    return miller_madow(joint.sum(axis=1)) + miller_madow(joint.sum(axis=2)) - miller_madow(flat)


def wilson(hits: np.ndarray, n: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score interval of a proportion, elementwise: low and high; 0 and 1 without rows.

    Source: Wilson 1927. scipy's ``binomtest(...).proportion_ci("wilson")`` gives the same for one proportion.
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    n = np.asarray(n, dtype=float)
    p = np.divide(hits, n, out=np.zeros(np.broadcast(hits, n).shape), where=n > 0)
    middle, half = p * n + z**2 / 2, z * np.sqrt(p * (1 - p) * n + z**2 / 4)
    return np.clip((middle - half) / (n + z**2), 0, 1), np.clip((middle + half) / (n + z**2), 0, 1)
