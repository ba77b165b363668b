"""Measures of how well values tell labels apart, from histograms: ``hits`` [feature, bin, label] and ``totals``
[feature, bin], bins in the order of their values. Values in one bin are ties. Vectorised over features and labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

_COUNTS_AT_ONCE = 1 << 17  # entries of float64 histograms worked on at once: 1 MB each, which caches hold

Counts = Int[np.ndarray, "feature bin label"]
Totals = Int[np.ndarray, "feature bin"]
ByLabel = Float[np.ndarray, "feature label"]


def chunks(n_features: int, n_bins: int, n_labels: int) -> Iterator[slice]:
    """Stretches of features whose histograms fit in the cache or nearly so."""
    step = max(1, _COUNTS_AT_ONCE // max(1, n_bins * n_labels))
    return (slice(at, min(at + step, n_features)) for at in range(0, n_features, step))


def average_precision(hits: Counts, totals: Totals) -> ByLabel:
    """Precision at each threshold, averaged with the recall gained there as weight; chance is the label's prevalence.

    One threshold per bin, high values first; ``hits[:, ::-1], totals[:, ::-1]`` is the negated feature's. NaN for a
    label without rows. Source: as scikit-learn's ``average_precision_score``.
    """
    h = hits[:, ::-1].astype(np.float64)
    found = np.cumsum(totals[:, ::-1], axis=1, dtype=np.float64)[:, :, None]
    precision = np.divide(np.cumsum(h, axis=1), found, out=np.zeros(h.shape), where=found > 0)
    truth = h.sum(axis=1)
    return np.divide((h * precision).sum(axis=1), truth, out=np.full(truth.shape, np.nan), where=truth > 0)


def quantile_bins(totals: Totals, n_ranges: int = 10) -> Int[np.ndarray, "feature bin"]:
    """Each bin's quantile, by the mid-rank of its rows; bins with much mass make some quantiles empty."""
    rows = np.cumsum(totals, axis=1, dtype=np.float64)
    middle = (rows - totals / 2) / np.maximum(rows[:, -1:], 1)
    return np.minimum((middle * n_ranges).astype(np.int64), n_ranges - 1)


def rebin(
    hits: Counts, range_of_bin: Int[np.ndarray, "feature bin"], n_ranges: int
) -> Int[np.ndarray, "feature range label"]:
    """Histogram over coarser bins; bins with bin -1 are left out. Bins must not fall with the value, but for -1."""
    member = (range_of_bin[:, None, :] == np.arange(n_ranges)[:, None]).astype(np.float64)
    return (member @ hits.astype(np.float64)).astype(np.int64)  # exact: sums of whole numbers below 2**53


def entropy(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Plug-in entropy in nats along an axis; NaN of nothing."""
    total = counts.sum(axis=axis, keepdims=True)
    p = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=axis)


def miller_madow(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Entropy in nats with the first-order correction of its bias, (values seen - 1) / (2 rows).

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    n = counts.sum(axis=axis)
    seen = (counts > 0).sum(axis=axis)
    return entropy(counts, axis) + np.divide(seen - 1, 2 * n, out=np.full(n.shape, np.nan), where=n > 0)


def information(joint: Int[np.ndarray, "feature range label"]) -> Float[np.ndarray, "feature"]:
    """I(range; label) in nats, Miller-Madow corrected; about 0 on average for independent rows, so it may be negative."""
    flat = joint.reshape(len(joint), -1)
    return miller_madow(joint.sum(axis=1)) + miller_madow(joint.sum(axis=2)) - miller_madow(flat)


def wilson(hits: np.ndarray, n: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score interval of a proportion, elementwise: low, high; 0 to 1 where there are no rows.

    Source: Wilson 1927. scipy's ``binomtest(...).proportion_ci("wilson")`` gives the same for one proportion.
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    n = np.asarray(n, dtype=float)
    p = np.divide(hits, n, out=np.zeros(np.broadcast(hits, n).shape), where=n > 0)
    middle, half = p * n + z**2 / 2, z * np.sqrt(p * (1 - p) * n + z**2 / 4)
    return np.clip((middle - half) / (n + z**2), 0, 1), np.clip((middle + half) / (n + z**2), 0, 1)
