"""Helpers for the figures of findings: one style that fits a phone screen and is safe for color-blind readers.

Text and grid are drawn in :data:`INK` and :data:`GRID` on a transparent background; a page may replace both colors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hooked_whisper.findings.core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#313233", "#c9cacb"
# Colors of Okabe and Ito's palette that are visible on white and on near-black.
BLUE, ORANGE, GREEN, PURPLE, GRAY = "#3b8ec9", "#d9822b", "#1fa187", "#c06fa8", "#8a8f94"
SIZE = (4.9, 3.6)
BASE_STYLE: dict[str, Any] = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
STYLE: Any = {
    **BASE_STYLE,
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.titlesize": 12,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "lines.linewidth": 2,
}


def new_figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure in the common style with a title and axis labels. It is not registered with pyplot, so it does
    not have to be closed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    axes.set_axisbelow(True)
    figure.set_label(title)
    return figure, axes


def add_legend(axes: Axes, below: bool = False) -> None:
    """Add a legend where the axes have room, or ``below`` them."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if below:
            axes.figure.legend(loc="outside lower center", ncols=3)  # type: ignore[union-attr]
        else:
            axes.legend(loc="best")


def draw_bars(axes: Axes, y: np.ndarray, values: np.ndarray, colors: Sequence[str], height: float = 0.6) -> None:
    """Draw horizontal bars with whiskers. ``values`` is ``[bar, (value, low, high)]``."""
    value, low, high = np.nan_to_num(values[:, 0]), values[:, 1], values[:, 2]
    axes.barh(y, value, height=height, color=list(colors))
    known = np.isfinite(low) & np.isfinite(high)
    for bar, v, a, b in zip(y[known], value[known], low[known], high[known], strict=True):
        axes.errorbar(v, bar, xerr=[[max(v - a, 0)], [max(b - v, 0)]], color=INK, capsize=3, linewidth=1.2)


def _controls(finding: Finding, criterion: str) -> tuple[list[str], np.ndarray]:
    """Return row names and ``[row, (value, low, high)]`` of a criterion, for this model and every control that measures
    it."""
    rows: list[tuple[str, list[float]]] = []
    for claim in finding.claims:
        if claim.name == criterion:
            rows.append(("this model", claim.estimate.row))
    for control in finding.controls:
        if criterion in control.values:
            rows.append((control.name, control.values[criterion].row))
    return [name for name, _ in rows], np.array([values for _, values in rows]).reshape(-1, 3)


def draw_controls(finding: Finding, index: int, label: str) -> Figure:
    """Draw one criterion for the model and its controls, with the threshold as a line."""
    criterion = finding.claims[index]
    names, values = _controls(finding, criterion.name)
    figure, axes = new_figure("Model and controls", label, "")
    heights = np.arange(len(names))[::-1]
    draw_bars(axes, heights, values, [BLUE] + [GRAY] * (len(names) - 1))
    axes.set_yticks(heights, names)
    axes.axvline(criterion.threshold, color=ORANGE, linestyle="--")
    side = "at least" if criterion.direction == "at least" else "at most"
    axes.plot([], [], color=ORANGE, linestyle="--", label=f"needs {side} {criterion.threshold:g}")
    axes.margins(y=0.1)
    figure.set_label(alt_text(criterion.name, values[:, 0], names, "", 1.0))
    add_legend(axes, below=True)
    return figure


def alt_text(title: str, values: np.ndarray, names: Sequence[str], unit: str = "%", scale: float = 100.0) -> str:
    """Return a description of a figure for screen readers, such as ``"WER. k = 10: 47 %, k = 20: 31 %"``."""
    parts = (f"{name}: {scale * v:.3g} {unit}".strip() for name, v in zip(names, values, strict=True) if np.isfinite(v))
    return f"{title}. {', '.join(parts)}"
