"""Statistics on plain arrays, with bootstrap and permutation tests. Random draws use the caller's ``rng``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from hooked_whisper.findings.core.finding import Estimate

Rng = np.random.Generator


def kl_rows(p: Float[np.ndarray, "row outcome"], log_q: Float[np.ndarray, "row outcome"]) -> Float[np.ndarray, "row"]:
    """Return KL(p || q) in nats for each row; outcomes with p = 0 contribute nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_q), 0.0)
    return terms.sum(axis=1)


def spearman(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Return Spearman's rank correlation: NaN if ``x`` or ``y`` is constant, or there are fewer than three pairs."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def spearman_rows(x: Float[np.ndarray, "row n"], y: Float[np.ndarray, "row n"]) -> Float[np.ndarray, "row"]:
    """Return :func:`spearman` of every row of ``x`` with the same row of ``y``."""
    if x.shape[1] < 3:
        return np.full(len(x), np.nan)
    a, b = (_centered(rankdata(rows, axis=1)) for rows in (x, y))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)


def _centered(rows: Float[np.ndarray, "row n"]) -> Float[np.ndarray, "row n"]:
    return rows - rows.mean(axis=1, keepdims=True)


def auc(
    positive: Float[np.ndarray, "p"],
    negative: Float[np.ndarray, "n"],
    w_positive: Float[np.ndarray, "p"] | None = None,
    w_negative: Float[np.ndarray, "n"] | None = None,
) -> float:
    """Return the probability that a positive scores higher than a negative. Ties count half."""
    wp = np.ones(len(positive)) if w_positive is None else w_positive
    wn = np.ones(len(negative)) if w_negative is None else w_negative
    if wp.sum() == 0 or wn.sum() == 0:
        return float("nan")
    order = np.argsort(negative, kind="stable")
    values, below = negative[order], np.concatenate([[0.0], np.cumsum(wn[order])])
    left, right = np.searchsorted(values, positive, "left"), np.searchsorted(values, positive, "right")
    wins = below[left] + 0.5 * (below[right] - below[left])
    return float((wp * wins).sum() / (wp.sum() * wn.sum()))


def bootstrap(
    n: int, statistic: Callable[[Int[np.ndarray, "n"]], float], rng: Rng, draws: int = 1000
) -> Float[np.ndarray, "draw"]:
    """Return ``statistic`` on ``draws`` resamples. It is called with ``n`` indices, drawn with replacement."""
    return np.array([statistic(rng.integers(n, size=n)) for _ in range(draws)])


def edit_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Return the Levenshtein distance between two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@dataclass(frozen=True)
class MatrixRegression:
    """Standardized coefficients of a regression between similarity matrices, with one-sided permutation p-values."""

    names: tuple[str, ...]
    coefficients: Float[np.ndarray, "name"]
    p_values: Float[np.ndarray, "name"]
    r_squared: float


def matrix_regression(
    y: Float[np.ndarray, "word word"],
    x: dict[str, Float[np.ndarray, "word word"]],
    rng: Rng,
    permutations: int = 1000,
) -> MatrixRegression:
    """Regress the upper triangle of ``y`` on those of ``x`` by least squares, everything standardized.

    The null distribution permutes the words of ``y`` (rows and columns together), which keeps the dependence between
    pairs that share a word. The p-value is the share of permutations whose coefficient is at least as large; the
    unpermuted data count as one of them.

    Source: Mantel 1967; Krackhardt 1988 (quadratic assignment).
    """
    upper = np.triu_indices(len(y), 1)
    design = np.stack([_standard(m[upper]) for m in x.values()], axis=1)
    solve = np.linalg.pinv(design)
    target = _standard(y[upper])
    coefficients = solve @ target
    larger = np.ones(len(x))
    for _ in range(permutations):
        order = rng.permutation(len(y))
        larger += solve @ _standard(y[np.ix_(order, order)][upper]) >= coefficients
    residual = target - design @ coefficients
    r_squared = 1 - float(residual @ residual) / max(float(target @ target), 1e-12)
    return MatrixRegression(tuple(x), coefficients, larger / (permutations + 1), r_squared)


def regression_coefficients(
    y: Float[np.ndarray, "word word"], x: dict[str, Float[np.ndarray, "word word"]], drawn: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "name"]:
    """Return the coefficients of :func:`matrix_regression` on resampled words, without pairs of a word with itself."""
    a, b = np.triu_indices(len(drawn), 1)
    i, j = drawn[a], drawn[b]
    keep = i != j
    i, j = i[keep], j[keep]
    design = np.stack([_standard(m[i, j]) for m in x.values()], axis=1)
    return np.linalg.lstsq(design, _standard(y[i, j]), rcond=None)[0]


def _standard(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def peak_offset(offsets: Float[np.ndarray, "offset"], rates: Float[np.ndarray, "offset"]) -> float:
    """Return the offset at which a profile is highest: the middle of a plateau, or NaN if the profile is flat."""
    known = np.isfinite(rates)
    if not known.any() or np.ptp(rates[known]) == 0:
        return float("nan")
    return float(offsets[known][rates[known] >= rates[known].max() - 1e-12].mean())


def cluster_rate(
    hits: Float[np.ndarray, "n"],
    counts: Float[np.ndarray, "n"],
    groups: Int[np.ndarray, "n"],
    rng: Rng,
    draws: int = 1000,
) -> Estimate:
    """Return the sum of hits over the sum of counts. The bootstrap draws whole groups (utterances), because entries of
    one group are not independent."""
    if not counts.sum() > 0:
        return Estimate(None)
    _, index = np.unique(groups, return_inverse=True)
    h, c = np.bincount(index, hits), np.bincount(index, counts)
    drawn = rng.integers(len(h), size=(draws, len(h)))
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = h[drawn].sum(1) / c[drawn].sum(1)
    return Estimate.of(float(hits.sum() / counts.sum()), samples)
