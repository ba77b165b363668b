"""Figures of F9 and F10 on released models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    add_legend,
    alt_text,
    draw_bars,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIR_LABELS = (
    "sound alike",
    "rhymes, other spelling",
    "used alike",
    "rhymes",
    "one phone apart",
    "rhymes, same spelling",
    "same spelling, no rhyme",
)
PREDICTOR_LABELS = ("sound", "spelling", "use", "log frequency", "difference of\nlog frequency")


def draw_english_bigrams(finding: Finding) -> list[Figure]:
    """Draw the controls, the rank correlations of all prompts, and the inputs without speech."""
    by_prompt = finding.measurement("statistics by prompt")
    name = by_prompt.axis("statistic").entries[0]
    threshold = finding.claims[0].threshold
    values = by_prompt.at(statistic=name)
    values = values[np.isfinite(values)]
    histogram, axes = new_figure("Rank correlation of each prompt", "rank correlation, given word frequency", "prompts")
    axes.hist(values, bins=np.linspace(-1, 1, 61).tolist(), color=BLUE)
    axes.axvline(threshold, color=ORANGE, linestyle="--", label=f"least mean: {threshold:g}")
    axes.axvline(float(values.mean()) if len(values) else 0.0, color=INK, label="mean")
    add_legend(axes, below=True)
    histogram.set_label(f"Histogram of {len(values)} prompts: {name}")
    table = finding.measurement("statistics by input and prefix")
    kinds, prefixes = table.axis("input").entries, table.axis("prefix").entries
    inputs, axes = new_figure("Inputs without speech", "rank correlation, given word frequency", "")
    positions = np.arange(len(kinds))[::-1]
    for k, (prefix, color) in enumerate(zip(prefixes, (BLUE, GREEN), strict=True)):
        bars = table.at(prefix=prefix, statistic=name)
        draw_bars(axes, positions + 0.2 - 0.4 * k, bars, [color] * len(kinds), height=0.36)
        axes.barh([0], [0], color=color, label=f"{prefix} prefix" if k == 0 else prefix)
    axes.set_yticks(positions, kinds)
    axes.axvline(threshold, color=ORANGE, linestyle="--")
    published = table.at(statistic=name, bound="value")[:, 0]
    inputs.set_label(alt_text(f"{name}, published prefix", published, [str(kind) for kind in kinds], "", 1.0))
    add_legend(axes, below=True)
    return [draw_controls(finding, 0, "rank correlation, given word frequency"), histogram, inputs]


def draw_english_neighbors(finding: Finding) -> list[Figure]:
    """Draw the AUC of each kind of pair, the distribution of cosines, and the coefficients of the regression."""
    table = finding.measurement("AUC by kind of pair")
    kinds = table.axis("pairs").entries
    aucs, axes = new_figure("Related and random pairs of words", "AUC of the cosine (0.5: chance)", "")
    positions = np.arange(len(kinds))[::-1]
    looks = (("raw", BLUE), ("mean-centered", GREEN), ("untrained", GRAY))
    for k, (embedding, color) in enumerate(looks):
        draw_bars(axes, positions + 0.27 - 0.27 * k, table.at(embedding=embedding), [color] * len(kinds), height=0.25)
        axes.barh([0], [0], color=color, label=embedding)
    axes.set_yticks(positions, PAIR_LABELS)
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set_xlim(0.3, 1.0)
    raw = table.at(embedding="raw", bound="value")
    aucs.set_label(alt_text("AUC of the raw cosine", raw, [str(kind) for kind in kinds], "", 1.0))
    add_legend(axes, below=True)
    cosines = finding.measurement("cosines")
    distribution, axes = new_figure("Cosine of pairs of words", "cosine similarity of embeddings", "share of pairs (%)")
    x = np.array(cosines.axis("cosine").entries, dtype=float)
    for name, color, line in zip(cosines.axes[0].entries, (BLUE, GRAY, GREEN), ("-", "--", "-."), strict=True):
        axes.plot(x, 100 * cosines.at(pairs=name), color=color, linestyle=line, label=name)
    axes.set_ylim(0, 135 * float(cosines.values.max()))
    distribution.set_label(
        "Distribution of cosines of pairs that sound alike, of random pairs, and of pairs used alike"
    )
    add_legend(axes)
    slopes = finding.measurement("standardized coefficients")
    coefficients, axes = new_figure("Predictors of the cosine", "standardized coefficient", "")
    positions = np.arange(len(PREDICTOR_LABELS))[::-1]
    for k, (embedding, color) in enumerate(looks[:2]):
        bars = slopes.at(embedding=embedding)
        draw_bars(axes, positions + 0.2 - 0.4 * k, bars, [color] * len(positions), height=0.36)
        axes.barh([0], [0], color=color, label=embedding)
    axes.set_yticks(positions, PREDICTOR_LABELS)
    axes.axvline(0, color=INK, linewidth=1)
    values = slopes.at(embedding="raw", bound="value")
    coefficients.set_label(alt_text("Standardized coefficients", values, slopes.axis("predictor").entries, "", 1.0))
    add_legend(axes, below=True)
    return [aucs, distribution, coefficients]
