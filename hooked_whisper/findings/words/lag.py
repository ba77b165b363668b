"""Lag of estimated word starts behind the true starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.protocols import Interval


def start_lags(estimated: Sequence[Interval], truth: Sequence[Interval]) -> Float[np.ndarray, "word"]:
    """Return the estimated minus the true start, in seconds, of every word except the first, which the recipe puts at
    0.

    The result is empty if the numbers of words differ.
    """
    if len(estimated) != len(truth):
        return np.zeros(0)
    return np.array([a.start - b.start for a, b in zip(estimated[1:], truth[1:], strict=True)], dtype=float)


def shifted_words(words: Sequence[Interval], seconds: float) -> tuple[Interval, ...]:
    """Return the words shifted by ``seconds``, with times clipped at 0."""
    return tuple(replace(w, start=max(0.0, w.start + seconds), end=max(0.0, w.end + seconds)) for w in words)


def median_lag(lags: Sequence[np.ndarray]) -> float:
    """Return the median lag in seconds over the words of all utterances, or 0 if there are none."""
    all_lags = np.concatenate([np.zeros(0), *lags])
    return float(np.median(all_lags)) if len(all_lags) else 0.0


def lag_estimate(lags: Sequence[np.ndarray], rng: np.random.Generator, draws: int = 1000) -> Estimate:
    """Return the median lag in seconds over words. The bootstrap resamples utterances."""
    known = [of_utterance for of_utterance in lags if len(of_utterance)]
    if not known:
        return Estimate(None)
    samples = [median_lag([known[k] for k in rng.integers(len(known), size=len(known))]) for _ in range(draws)]
    return Estimate.of(median_lag(known), samples)


def milliseconds(lag: Estimate) -> str:
    """Format a lag in seconds as milliseconds, such as ``"95 ms [80, 110]"``."""
    value, low, high = (round(1000 * x) if np.isfinite(x) else "–" for x in lag.row)
    return f"{value} ms [{low}, {high}]"
