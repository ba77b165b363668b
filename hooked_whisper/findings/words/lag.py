"""How much later word starts are found than they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.protocols import Interval


def start_lags(found: Sequence[Interval], truth: Sequence[Interval]) -> Float[np.ndarray, "word"]:
    """Found minus true start (s) of every word but the first, which the recipe puts at 0; none if words differ in
    number."""
    if len(found) != len(truth):
        return np.zeros(0)
    return np.array([a.start - b.start for a, b in zip(found[1:], truth[1:], strict=True)], dtype=float)


def moved(words: Sequence[Interval], by: float) -> tuple[Interval, ...]:
    """The same words ``by`` seconds later, not before 0."""
    return tuple(replace(w, start=max(0.0, w.start + by), end=max(0.0, w.end + by)) for w in words)


def median_lag(lags: Sequence[np.ndarray]) -> float:
    """Median (s) over the words of all utterances; 0 without words."""
    every = np.concatenate([np.zeros(0), *lags])
    return float(np.median(every)) if len(every) else 0.0


def lag_estimate(lags: Sequence[np.ndarray], rng: np.random.Generator, draws: int = 1000) -> Estimate:
    """Median lag (s) over words; the bootstrap draws utterances."""
    known = [one for one in lags if len(one)]
    if not known:
        return Estimate(None)
    samples = [median_lag([known[k] for k in rng.integers(len(known), size=len(known))]) for _ in range(draws)]
    return Estimate.of(median_lag(known), samples)


def milliseconds(lag: Estimate) -> str:
    """``"95 ms [80, 110]"``"""
    value, low, high = (round(1000 * x) if np.isfinite(x) else "–" for x in lag.row)
    return f"{value} ms [{low}, {high}]"
