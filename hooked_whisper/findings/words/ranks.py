"""Precision of the fragments in which a word has the highest score, and its figure (F15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from hooked_whisper.findings.core.figures import BLUE, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Estimate, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP, LEAST = 10, 3  # number of top fragments; fragments that must contain a word for it to be ranked
DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class RankedWords:
    """Words that at least :data:`LEAST` fragments contain.

    Attributes:
        counts: number of fragments that contain the word.
        precision: share of the word's top fragments that contain it.
    """

    words: tuple[str, ...]
    counts: Float[np.ndarray, "word"]
    precision: Float[np.ndarray, "word"]

    def estimate(self, rng: np.random.Generator) -> Estimate:
        """Return the mean precision, with a bootstrap over words."""
        if not self.words:
            return Estimate(None)
        drawn = rng.integers(len(self.words), size=(DRAWS, len(self.words)))
        return Estimate.of(float(self.precision.mean()), self.precision[drawn].mean(1))


def rank(
    scores: Float[np.ndarray, "fragment word"], labels: Bool[np.ndarray, "fragment word"], words: Sequence[str]
) -> RankedWords:
    """Return the precision of the top k fragments of each word, where k is :data:`TOP` or the number of fragments that
    contain the word, if that is smaller."""
    counts = labels.sum(0)
    enough = np.flatnonzero(counts >= LEAST)
    order = np.argsort(-scores[:, enough], axis=0, kind="stable")
    hits = np.cumsum(np.take_along_axis(labels[:, enough], order, axis=0), axis=0)
    k = np.minimum(counts[enough], TOP)
    precision = hits[k - 1, np.arange(len(enough))] / k if len(enough) else np.zeros(0)
    return RankedWords(tuple(words[w] for w in enough.tolist()), counts[enough].astype(float), precision.astype(float))


def draw_precision(finding: Finding) -> list[Figure]:
    """Draw the mean precision and its controls, and the precision of every word by the number of fragments that contain
    it."""
    table = finding.measurement("precision by word")
    figure, axes = new_figure("Precision by word", "fragments that contain the word", "precision of its top fragments")
    counts, precision = table.at(value="fragments that contain it"), table.at(value="precision")
    axes.scatter(counts, precision, color=BLUE, alpha=0.5, s=24)
    axes.set_ylim(-0.03, 1.03)
    figure.set_label(alt_text("Precision by word", precision, [str(w) for w in table.axes[0].entries], "", 1.0))
    return [draw_controls(finding, 0, "precision"), figure]
