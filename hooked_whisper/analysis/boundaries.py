"""How well found word boundaries agree with true ones: strict precision, recall, F1 and R-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Interval

TOLERANCES_S = (0.02, 0.04, 0.06, 0.08, 0.1)
_SAME_S = 1e-3  # two edges nearer than this are one boundary


@dataclass(frozen=True)
class BoundaryScore:
    """Counts, and what follows from them. Every boundary is used once ("strict"); shares of nothing are NaN."""

    hits: int
    found: int
    truth: int

    @property
    def precision(self) -> float:
        return self.hits / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.hits / self.truth if self.truth else float("nan")

    @property
    def f1(self) -> float:
        return float(f1_of(self.hits, self.found, self.truth))

    @property
    def r_value(self) -> float:
        """Distance from the ideal of all boundaries found and none too many: 1 is perfect, and finding boundaries
        everywhere does not help (Räsänen, Laine and Altosaar 2009, "An improved speech segmentation quality measure:
        the R-value", equations 5 to 7)."""
        return float(r_value_of(self.hits, self.found, self.truth))

    def __add__(self, other: BoundaryScore) -> BoundaryScore:
        return BoundaryScore(self.hits + other.hits, self.found + other.found, self.truth + other.truth)


Count = int | np.integer | np.ndarray


def f1_of(hits: Count, found: Count, truth: Count) -> np.ndarray:
    """``2 hits / (found + truth)``, elementwise; NaN of nothing."""
    total = np.asarray(found, float) + truth
    return np.divide(2.0 * np.asarray(hits, float), total, out=np.full(total.shape, np.nan), where=total > 0)


def r_value_of(hits: Count, found: Count, truth: Count) -> np.ndarray:
    """R-value, elementwise; NaN without true boundaries."""
    n = np.asarray(truth, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        hit_rate, over = np.asarray(hits, float) / n, np.asarray(found, float) / n - 1
        r1 = np.sqrt((1 - hit_rate) ** 2 + over**2)
        r2 = (-over + hit_rate - 1) / np.sqrt(2)
        return np.where(n > 0, 1 - (np.abs(r1) + np.abs(r2)) / 2, np.nan)


def boundaries(words: Sequence[Interval]) -> Float[np.ndarray, "boundary"]:
    """Times (s) at which words begin and end, in order, an edge that two words share once.

    The first word's beginning is left out: the recipes below put it at 0 whatever the audio (nothing comes before it
    that could end there), so it says nothing about the heads.
    """
    edges = np.sort(np.array([w.start for w in words[1:]] + [w.end for w in words], dtype=float))
    return edges[np.append(True, np.diff(edges) > _SAME_S)] if len(edges) else edges


def boundary_f1(
    found: Sequence[float | int] | Float[np.ndarray, "found"],
    truth: Sequence[float | int] | Float[np.ndarray, "truth"],
    tolerance_s: float | int,
) -> BoundaryScore:
    """Boundaries (s) found within ``tolerance_s`` (s) of a true one, each used once, as many pairs as there can be.

    Raises:
        AlignmentError: a negative tolerance.
    """
    if not tolerance_s >= 0:
        raise AlignmentError(f"the tolerance must be 0 s or more, got {tolerance_s}")
    a, b = np.sort(np.asarray(found, float)), np.sort(np.asarray(truth, float))
    i = j = hits = 0
    while i < len(a) and j < len(b):  # both in order and one width for all: the first pair that fits is never wrong
        gap = a[i] - b[j]
        if abs(gap) <= tolerance_s + 1e-9:
            hits, i, j = hits + 1, i + 1, j + 1
        elif gap < 0:
            i += 1
        else:
            j += 1
    return BoundaryScore(hits, len(a), len(b))


def boundary_counts(
    found: Sequence[Interval], truth: Sequence[Interval], tolerances_s: Sequence[float | int] = TOLERANCES_S
) -> Int[np.ndarray, "tolerance three"]:
    """Hits, found and true boundaries of the words at each tolerance (s)."""
    a, b = boundaries(found), boundaries(truth)
    scores = (boundary_f1(a, b, t) for t in tolerances_s)
    return np.array([[s.hits, s.found, s.truth] for s in scores])


def boundary_errors(found: Sequence[Interval], truth: Sequence[Interval]) -> Float[np.ndarray, "edge"]:
    """|found - true| (s) of every word's start and end, word by word, but the first word's start.

    Raises:
        AlignmentError: different numbers of words.
    """
    if len(found) != len(truth):
        raise AlignmentError(f"{len(found)} words found, {len(truth)} true ones: their edges cannot be paired")
    a = np.array([(w.start, w.end) for w in found], dtype=float).reshape(-1)
    b = np.array([(w.start, w.end) for w in truth], dtype=float).reshape(-1)
    return np.abs(a - b)[1:]
