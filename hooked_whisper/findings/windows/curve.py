"""WER by attention window, and its statistics (F2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.findings.core.statistics import bootstrap, spearman
from hooked_whisper.findings.core.transcripts import errors_of
from hooked_whisper.text import WordError

FIRST_WINDOW = 10  # the narrowest window that is judged
LOCALITY_WINDOWS = (20, 50, 75)


class Curve:
    """WER by window, with bootstrap resamples of the clips. Curves with the same number of clips share the
    resamples."""

    def __init__(self, references: Sequence[str], texts: dict[int, list[str]], seed: int) -> None:
        self.windows = sorted(texts)
        count = min(len(t) for t in texts.values())
        self.errors: list[list[WordError]] = [errors_of(references[:count], texts[k][:count]) for k in self.windows]
        wrong = np.array([[e.errors for e in row] for row in self.errors])  # [window, utterance]
        words = np.array([e.n_reference for e in self.errors[0]])
        rng = np.random.default_rng(seed)
        drawn = rng.integers(count, size=(1000, count)) if count else np.zeros((0, 0), int)
        self.wer = wrong.sum(1) / max(words.sum(), 1)
        self.samples: Float[np.ndarray, "draw window"] = np.stack(
            [row[drawn].sum(1) / np.maximum(words[drawn].sum(1), 1) for row in wrong], axis=1
        )

    def at(self, k: int) -> Estimate:
        """Return the WER at a window. It is undefined if the window was not run."""
        if k not in self.windows:
            return Estimate(None)
        index = self.windows.index(k)
        return Estimate.of(self.wer[index], self.samples[:, index])

    def rank_correlation(self) -> Estimate:
        """Return the rank correlation of window and accuracy, over the published windows (not the narrower ones)."""
        judged = [i for i, k in enumerate(self.windows) if k >= FIRST_WINDOW]
        k = np.array(self.windows, dtype=float)[judged]
        return Estimate.of(spearman(k, -self.wer[judged]), [spearman(k, -row[judged]) for row in self.samples])

    def excess(self, least: int) -> Estimate:
        """Return the largest WER above the full window's, over windows of at least ``least``."""
        wide = [i for i, k in enumerate(self.windows) if least <= k < self.windows[-1]]
        if not wide:
            return Estimate(None)
        return Estimate.of(
            (self.wer[wide] - self.wer[-1]).max(), (self.samples[:, wide] - self.samples[:, -1:]).max(axis=1)
        )

    def rise(self) -> Estimate:
        """Return the largest rise of WER from a window to a wider one, over the published windows."""
        judged = [i for i, k in enumerate(self.windows) if k >= FIRST_WINDOW]
        if len(judged) < 2:
            return Estimate(None)
        return Estimate.of(_largest_rise(self.wer[None, judged])[0], _largest_rise(self.samples[:, judged]))

    def narrowest(self) -> Estimate:
        """Return the WER at the narrowest window that is judged."""
        return self.at(FIRST_WINDOW)


def _largest_rise(wer: Float[np.ndarray, "draw window"]) -> Float[np.ndarray, "draw"]:
    """Return the largest rise of WER from a window to a wider one. It is negative if every wider window is better."""
    lowest = np.minimum.accumulate(wer, axis=1)
    return (wer[:, 1:] - lowest[:, :-1]).max(axis=1)


def locality(narrow: Curve, scrambled: Curve) -> Estimate:
    """Return the WER of the scrambled window minus that of the band, averaged over windows. Clips are paired."""
    shared = [k for k in LOCALITY_WINDOWS if k in narrow.windows and k in scrambled.windows]
    if not shared:
        return Estimate(None)
    count = len(scrambled.errors[0])
    per_utterance = np.zeros(count)
    for k in shared:
        a, b = scrambled.errors[scrambled.windows.index(k)], narrow.errors[narrow.windows.index(k)][:count]
        per_utterance += np.array([x.errors - y.errors for x, y in zip(a, b, strict=True)]) / len(shared)
    words = np.array([e.n_reference for e in scrambled.errors[0]])
    value = per_utterance.sum() / max(words.sum(), 1)
    rng = np.random.default_rng(0)
    samples = bootstrap(count, lambda i: float(per_utterance[i].sum() / max(words[i].sum(), 1)), rng)
    return Estimate.of(value, samples)
