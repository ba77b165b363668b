"""Figures of F6 on released models."""

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
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Finding
from sae_lens_audio.findings.published_names import EXISTS, NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F1_BY_BASIS, SHARE_BY_BASIS = "best-phone F1 by kind of feature", "share of phonetic features by kind"
CURVE, DISTRIBUTION = "explained variance during training", "features by best-phone F1, last block"
COVERAGE = "share of phones with a feature of F1 0.5"
NAMED_F1, NAMED_RANDOM, NAMED_SHIFTED = (
    "F1 of the best feature for each published name",
    "F1 of the best random direction for each published name",
    "F1 of the best feature for each published name, shifted labels",
)
_COLORS = (BLUE, GREEN, ORANGE, GRAY)


def draw(finding: Finding) -> list[Figure]:
    """Draw controls, F1 by kind of features and block, features by F1, published names, and learning curves."""
    names = {measurement.name for measurement in finding.measurements}
    further = [(NAMED_F1, _by_name), (CURVE, _curves)]  # curves: of SAEs that were trained in the run
    return [
        draw_controls(finding, 0, "share of features"),
        _by_basis(finding),
        _by_f1(finding),
        *(figure(finding) for name, figure in further if name in names),
    ]


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


def _by_name(finding: Finding) -> Figure:
    """Draw the best F1 for each published name in any block, of both SAEs, with the best control."""
    f1 = finding.measurement(NAMED_F1)
    controls = [finding.measurement(name) for name in (NAMED_RANDOM, NAMED_SHIFTED)]
    names, saes = f1.axis("published").entries, f1.axis("SAE").entries
    figure, axes = new_figure("Features published by name", "F1 of the best feature in any block", "")
    places = np.arange(len(names))[::-1]
    for i, (sae, color) in enumerate(zip(saes, _COLORS, strict=False)):
        y = places + 0.2 - 0.4 * i
        axes.barh(y, np.nan_to_num(f1.at(SAE=sae)).max(axis=1), 0.36, color=color, label=sae)
        control = np.max([np.nan_to_num(m.at(SAE=sae)).max(axis=1) for m in controls], axis=0)
        axes.plot(control, y, "|", color=INK, markersize=9, label="best control" if i == 0 else None)
    axes.axvline(EXISTS, color=GRAY, linestyle=":", linewidth=1)
    phones = {name.name: name.phone for name in NAMES}
    axes.set_yticks(places, [f"{name} /{phone}/" if (phone := phones.get(name)) else name for name in names])
    axes.set_xlim(0, 1)
    add_legend(axes, below=True)
    is_judged = np.isfinite(f1.values).any(axis=(1, 2))
    best = np.where(is_judged, np.nan_to_num(f1.values).max(axis=(1, 2)), np.nan)
    figure.set_label(alt_text("Best F1 for each published name", best, names, "", 1.0))
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
