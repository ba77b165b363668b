"""Heat maps of arrays with labeled axes, drawn without pyplot on a transparent background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float

from hooked_whisper.errors import check_option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["sequential", "diverging"]
_MOST_TICKS = 24


def heat_map(
    values: Float[np.ndarray, "row column"],
    *,
    title: str,
    x: str,
    y: str,
    unit: str,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    extent: tuple[float | int, float | int, float | int, float | int] | None = None,
    scale: Scale = "sequential",
    clip: float | int = 100.0,
    texts: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Draw a heat map with row 0 at the top.

    Args:
        rows, columns: names of the entries; or give coordinates as ``extent`` (left, right, bottom, top).
        scale: ``"diverging"`` is centered on 0.
        clip: percentile of the absolute values where the colors end, so that a few large entries do not hide the
            others; the color bar says so.
        texts: text of each cell.
    """
    check_option("scale", scale, get_args(Scale))
    from matplotlib.figure import Figure

    known = values[np.isfinite(values)]
    if scale == "diverging":
        top = float(np.percentile(np.abs(known), clip)) if known.size else 1.0
        low, high, color_map = -(top or 1.0), top or 1.0, "PuOr"
    else:
        low = float(known.min()) if known.size else 0.0
        high = float(np.percentile(known, clip)) if known.size else 1.0
        high, color_map = (high if high > low else low + 1.0), "viridis"
    cell = 0.45 if texts is None else 0.8  # inches
    wide = min(14.0, max(4.9, cell * values.shape[1] + 1.5)) if columns is not None else 4.9
    high_in = min(12.0, max(3.6, 0.28 * values.shape[0])) if rows is not None else 4.2
    figure = Figure(figsize=(wide, high_in), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    image = axes.imshow(
        values, aspect="auto", cmap=color_map, vmin=low, vmax=high, extent=extent, interpolation="nearest"
    )
    clipped = f"\n(colors end at percentile {clip:g})" if clip < 100 else ""
    figure.colorbar(image, ax=axes, label=unit + clipped)
    if rows is not None:
        ticks = _ticks(len(rows))
        axes.set_yticks(ticks, [rows[i] for i in ticks], fontsize=8)
    if columns is not None:
        ticks = _ticks(len(columns))
        axes.set_xticks(ticks, [columns[i] for i in ticks], rotation=60, ha="right", fontsize=8)
    for r, row in enumerate(texts or ()):
        for c, text in enumerate(row):
            if scale == "sequential":
                dark_cell = values[r, c] < low + 0.6 * (high - low)
            else:
                dark_cell = abs(values[r, c]) > 0.6 * high
            axes.text(c, r, text, ha="center", va="center", fontsize=7, color="white" if dark_cell else "black")
    figure.set_label(title)
    return figure


def _ticks(n: int) -> list[int]:
    """Return at most :data:`_MOST_TICKS` indices, evenly spaced."""
    return list(range(0, n, max(1, -(-n // _MOST_TICKS))))
