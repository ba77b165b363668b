"""Figures of F4, the words cut out of the encoder's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    add_legend,
    alt_text,
    new_figure,
)
from hooked_whisper.findings.core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_cut_words(finding: Finding) -> list[Figure]:
    """Draw the words lost by margin, the fate of words, and the effect of moving the cut."""
    fate = finding.measurement("fate of words")
    cuts, fates = fate.axis("cut").entries, fate.axis("fate").entries
    first, axes = new_figure("Fate of the words", "share of words (%)", "")
    rows = [(cut, word) for cut in cuts for word in fate.axis("word").entries]
    names = [f"{word}, cut {'in' if cut == 'silence' else 'at'} {cut}" for cut, word in rows]
    names = [name.replace("another word", "a distant word") for name in names]
    heights = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for name, color in zip(fates, (BLUE, PURPLE, ORANGE), strict=True):
        values = np.array([100 * fate.at(cut=c, word=w, fate=name) for c, w in rows], dtype=float)
        values = np.nan_to_num(values)
        axes.barh(heights, values, left=left, color=color, height=0.65, label=name)
        left += values
    axes.set_yticks(heights, names)
    axes.set_xlim(0, 100)
    add_legend(axes, below=True)
    targets = np.array([fate.at(cut=cuts[0], word="target", fate=f) for f in fates], dtype=float)
    first.set_label(alt_text("Words that were cut out", targets, [str(f) for f in fates]))
    profile = finding.measurement("target word gone by offset of the cut")
    second, axes = new_figure(
        "Effect of moving the cut", "offset of the cut from the word (ms)", "target word gone (%)"
    )
    offsets = np.array(profile.axes[0].entries, dtype=float)
    axes.axvspan(-100, 100, color=GREEN, alpha=0.18, linewidth=0, label="within 100 ms")
    axes.plot(offsets, 100 * profile.values, color=BLUE, marker="o")
    second.set_label(alt_text("Target word gone by offset", profile.values, [f"{o:.0f} ms" for o in offsets]))
    axes.set_ylim(0, 103)
    add_legend(axes)
    return [_draw_margins(finding), first, second]


def _draw_margins(finding: Finding) -> Figure:
    """Draw the shares of lost words by margin, with the thresholds of their criteria."""
    sweep = finding.measurement("words gone by margin")
    margins = np.array(sweep.axes[0].entries, dtype=float)
    figure, axes = new_figure(
        "Words gone by margin of the cut", "margin on each side of the word (ms)", "words gone (%)"
    )
    looks = {
        "target word gone": ("target", BLUE, "o", "-"),
        "words right next to the target gone": ("right next to it", ORANGE, "s", "--"),
        "other words gone": ("all other words", GREEN, "^", ":"),
    }
    limits = {c.name: 100 * c.threshold for c in finding.claims}
    for name, (label, color, marker, line) in looks.items():
        value, low, high = 100 * sweep.at(statistic=name).T
        axes.plot(margins, value, color=color, marker=marker, linestyle=line, label=label)
        axes.fill_between(margins, low, high, color=color, alpha=0.2, linewidth=0)
        if name in limits:
            axes.axhline(limits[name], color=color, linestyle=(0, (1, 3)), linewidth=1.2)
    if "verdict_margin_ms" in finding.parameters:
        axes.axvline(finding.parameters["verdict_margin_ms"], color=GRAY, linewidth=1.2, label="verdict")
    axes.plot([], [], color=INK, linestyle=(0, (1, 3)), linewidth=1.2, label="threshold")
    axes.set_ylim(0, 103)
    axes.set_xticks(margins)
    figure.set_label(
        " ".join(
            alt_text(f"{label}, by margin", sweep.at(statistic=name, bound="value"), [f"{m:g} ms" for m in margins])
            + "."
            for name, (label, *_) in looks.items()
        )
    )
    add_legend(axes, below=True)
    return figure
