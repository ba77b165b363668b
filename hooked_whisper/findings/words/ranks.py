"""Precision of the fragments in which a word scores highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from hooked_whisper.findings.core.finding import Estimate

TOP, LEAST = 10, 3  # fragments ranked, and fragments that must hold a word
DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Ranked:
    """Words that enough fragments contain, how many do, their k and the share of their top k that contain them."""

    words: tuple[str, ...]
    counts: Float[np.ndarray, "word"]
    precision: Float[np.ndarray, "word"]

    def estimate(self, rng: np.random.Generator) -> Estimate:
        if not self.words:
            return Estimate(None)
        drawn = rng.integers(len(self.words), size=(DRAWS, len(self.words)))
        return Estimate.of(float(self.precision.mean()), self.precision[drawn].mean(1))


def rank(
    scores: Float[np.ndarray, "fragment word"], labels: Bool[np.ndarray, "fragment word"], words: Sequence[str]
) -> Ranked:
    """Precision of the top k of every word that enough fragments contain."""
    counts = labels.sum(0)
    enough = np.flatnonzero(counts >= LEAST)
    order = np.argsort(-scores[:, enough], axis=0, kind="stable")
    hits = np.cumsum(np.take_along_axis(labels[:, enough], order, axis=0), axis=0)
    k = np.minimum(counts[enough], TOP)
    precision = hits[k - 1, np.arange(len(enough))] / k if len(enough) else np.zeros(0)
    return Ranked(tuple(words[w] for w in enough.tolist()), counts[enough].astype(float), precision.astype(float))
