"""Agreement of predicted with true word boundaries: strict precision, recall, F1 and R-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing, Summary, counted
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Interval

TOLERANCES_S = (0.02, 0.04, 0.06, 0.08, 0.1)
_SAME_S = 1e-3  # two edges nearer than this are one boundary


@dataclass(frozen=True, repr=False)
class BoundaryScore(Showing):
    """Counts of boundaries, each used once ("strict"). Ratios with a denominator of 0 are NaN.

    hits: matched boundaries. predicted: predicted boundaries. truth: true boundaries.
    """

    hits: int
    predicted: int
    truth: int

    @property
    def precision(self) -> float:
        return self.hits / self.predicted if self.predicted else float("nan")

    @property
    def recall(self) -> float:
        return self.hits / self.truth if self.truth else float("nan")

    @property
    def f1(self) -> float:
        return float(f1_of(self.hits, self.predicted, self.truth))

    @property
    def r_value(self) -> float:
        """1 for perfect segmentation; unlike F1 it penalizes over-segmentation (Räsänen, Laine and Altosaar 2009, "An
        improved speech segmentation quality measure: the R-value", equations 5 to 7)."""
        return float(r_value_of(self.hits, self.predicted, self.truth))

    def summary(self) -> Summary:
        title = (
            f"BoundaryScore: {counted(self.hits, 'hit')}, {self.predicted} predicted and {self.truth} true boundaries"
        )
        names = ("precision", "recall", "f1", "r_value")
        return Summary(title, (), names, (tuple(getattr(self, name) for name in names),))

    def __add__(self, other: BoundaryScore) -> BoundaryScore:
        return BoundaryScore(self.hits + other.hits, self.predicted + other.predicted, self.truth + other.truth)


Count = int | np.integer | np.ndarray


@renamed_arguments(found="predicted")
def f1_of(hits: Count, predicted: Count, truth: Count) -> np.ndarray:
    """Return ``2 hits / (predicted + truth)``, elementwise; NaN if there are no boundaries."""
    total = np.asarray(predicted, float) + truth
    return np.divide(2.0 * np.asarray(hits, float), total, out=np.full(total.shape, np.nan), where=total > 0)


@renamed_arguments(found="predicted")
def r_value_of(hits: Count, predicted: Count, truth: Count) -> np.ndarray:
    """Return the R-value, elementwise; NaN without true boundaries."""
    n = np.asarray(truth, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        hit_rate, over = np.asarray(hits, float) / n, np.asarray(predicted, float) / n - 1
        r1 = np.sqrt((1 - hit_rate) ** 2 + over**2)
        r2 = (-over + hit_rate - 1) / np.sqrt(2)
        return np.where(n > 0, 1 - (np.abs(r1) + np.abs(r2)) / 2, np.nan)


def boundaries(words: Sequence[Interval]) -> Float[np.ndarray, "boundary"]:
    """Return the times (s) at which words begin and end, sorted; an edge shared by two words appears once.

    The start of the first word is left out: alignment puts it at 0 for any audio, so it does not depend on the heads.
    """
    edges = np.sort(np.array([w.start for w in words[1:]] + [w.end for w in words], dtype=float))
    return edges[np.append(True, np.diff(edges) > _SAME_S)] if len(edges) else edges


@renamed_arguments(found="predicted")
def boundary_f1(
    predicted: Sequence[float | int] | Float[np.ndarray, "predicted"],
    truth: Sequence[float | int] | Float[np.ndarray, "truth"],
    tolerance_s: float | int,
) -> BoundaryScore:
    """Match predicted boundaries (s) to true ones within ``tolerance_s``, each used once; the matching is maximal.

    Raises:
        AlignmentError: the tolerance is negative.
    """
    if not tolerance_s >= 0:
        raise AlignmentError(f"the tolerance must be 0 s or more, got {tolerance_s}")
    a, b = np.sort(np.asarray(predicted, float)), np.sort(np.asarray(truth, float))
    i = j = hits = 0
    while i < len(a) and j < len(b):  # greedy is optimal: both are sorted and the tolerance is constant
        gap = a[i] - b[j]
        if abs(gap) <= tolerance_s + 1e-9:
            hits, i, j = hits + 1, i + 1, j + 1
        elif gap < 0:
            i += 1
        else:
            j += 1
    return BoundaryScore(hits, len(a), len(b))


@renamed_arguments(found="predicted")
def boundary_counts(
    predicted: Sequence[Interval], truth: Sequence[Interval], tolerances_s: Sequence[float | int] = TOLERANCES_S
) -> Int[np.ndarray, "tolerance three"]:
    """Return hits, predicted and true boundaries of words at each tolerance (s)."""
    a, b = boundaries(predicted), boundaries(truth)
    scores = (boundary_f1(a, b, t) for t in tolerances_s)
    return np.array([[s.hits, s.predicted, s.truth] for s in scores])


@renamed_arguments(found="predicted")
def boundary_errors(predicted: Sequence[Interval], truth: Sequence[Interval]) -> Float[np.ndarray, "edge"]:
    """Return |predicted - true| (s) of the start and end of every word, without the start of the first.

    Raises:
        AlignmentError: the numbers of words differ.
    """
    if len(predicted) != len(truth):
        raise AlignmentError(f"{len(predicted)} predicted words and {len(truth)} true ones: give the same words")
    a = np.array([(w.start, w.end) for w in predicted], dtype=float).reshape(-1)
    b = np.array([(w.start, w.end) for w in truth], dtype=float).reshape(-1)
    return np.abs(a - b)[1:]
