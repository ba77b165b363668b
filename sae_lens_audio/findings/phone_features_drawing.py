"""Figures of F6 on released models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    add_legend,
    alt_text,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F1_BY_BASIS, SHARE_BY_BASIS = "best-phone F1 by kind of feature", "share of phonetic features by kind"
CURVE, DISTRIBUTION = "explained variance during training", "features by best-phone F1, last block"
_COLORS = (BLUE, GREEN, ORANGE, GRAY)


def draw(finding: Finding) -> list[Figure]:
    """Draw controls, F1 by kind of features and block, features by F1, and the learning curves."""
    return [draw_controls(finding, 0, "share of features"), _by_basis(finding), _by_f1(finding), _curves(finding)]


def _by_basis(finding: Finding) -> Figure:
    f1 = finding.measurement(F1_BY_BASIS)
    names, blocks = f1.axis("features").entries, f1.axis("block").entries
    figure, axes = new_figure("Features as phone detectors", "best-phone F1, mean over features", "")
    places = np.arange(len(names))[::-1]
    for i, block in enumerate(blocks):
        values = f1.at(block=block)
        error = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1]).T)
        y = places + 0.2 - 0.4 * i
        axes.barh(y, values[:, 0], 0.36, color=_COLORS[i], label=f"block {block}", xerr=error, capsize=2)
    axes.set_yticks(places, names)
    add_legend(axes, below=True)
    last = f1.at(block=blocks[-1], bound="value")
    figure.set_label(alt_text(f"Best-phone F1, mean over features, block {blocks[-1]}", last, names, "", 1.0))
    return figure


def _by_f1(finding: Finding) -> Figure:
    shares = finding.measurement(DISTRIBUTION)
    names, starts = shares.axis("features").entries, np.array(shares.axis("F1 from").entries, dtype=float)
    figure, axes = new_figure("Features by best-phone F1, last block", "F1 of the best phone", "features (%)")
    for name, color, marker in zip(names, _COLORS, "os^x", strict=True):
        axes.plot(starts + 0.05, 100 * shares.at(features=name), color=color, marker=marker, label=name)
    axes.set_xlim(0, 1)
    add_legend(axes)
    high = [float(shares.at(features=name)[starts >= 0.3 - 1e-9].sum()) for name in names]
    figure.set_label(alt_text("Features with an F1 of 0.3 or more", np.array(high), names))
    return figure


def _curves(finding: Finding) -> Figure:
    curve = finding.measurement(CURVE)
    names, blocks = curve.axis("SAE").entries, curve.axis("block").entries
    steps = 100 * np.array(curve.axis("share of steps").entries, dtype=float)
    figure, axes = new_figure("Training", "steps (%)", "explained variance of held-out speech")
    for name, line in zip(names, ("-", "--"), strict=True):
        for block, color in zip(blocks, _COLORS, strict=False):
            axes.plot(steps, curve.at(SAE=name, block=block), line, color=color, label=f"{name}, block {block}")
    axes.set_ylim(None, 1)
    add_legend(axes, below=True)
    last = [float(curve.at(SAE=name, block=blocks[-1])[-1]) for name in names]
    figure.set_label(alt_text("Explained variance at the end of training", np.array(last), names, "", 1.0))
    return figure
