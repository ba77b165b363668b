"""Heat maps with labeled axes and bar charts, drawn without pyplot."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from hooked_whisper._support.plotly_figures import Backend, check_backend, plotly_bars, plotly_heat_map
from hooked_whisper.errors import check_option

Scale = Literal["sequential", "diverging"]
_ROW_INCHES, _COLUMN_INCHES = 0.16, 0.17  # of a tick label at 8 points
_LONGEST_LABEL = 16  # characters
_TITLE_CHARACTERS = 9.5  # per inch, at 12 points in bold
_LINES_WITH_LEGEND_INSIDE = 6  # a longer legend would hide the lines


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
    y_ticks: Sequence[tuple[float, str]] = (),
    scale: Scale = "sequential",
    clip: float | int = 100.0,
    texts: Sequence[Sequence[str]] | None = None,
    facecolor: str = "none",
    backend: Backend = "matplotlib",
) -> Any:
    """Draw a heat map with row 0 at the top.

    Args:
        rows, columns: names of the entries; or give coordinates as ``extent`` (left, right, bottom, top).
        y_ticks: marks on the y axis of ``extent``: value and text.
        scale: ``"diverging"`` is centered on 0.
        clip: percentile where the colors end, so that a few large or small entries do not hide the others: of the
            absolute values for ``"diverging"``, else of the values, at both ends. The color bar says so if it clips.
        texts: text of each cell.
        facecolor: background; ``"none"`` for pages that set their own colors.
        backend: ``"matplotlib"`` or ``"plotly"``.

    Returns:
        A matplotlib or plotly figure.
    """
    check_option("scale", scale, get_args(Scale))
    check_backend(backend)
    low, high, clipped = _limits(values, scale, float(clip))
    color_map = "PuOr" if scale == "diverging" else "viridis"
    if clipped:
        unit = f"{unit}\n(colors clipped at {clipped})"
    if backend == "plotly":
        figure = plotly_heat_map(
            values,
            title=title,
            x=x,
            y=y,
            unit=unit,
            colors=color_map,
            limits=(low, high),
            rows=rows,
            columns=columns,
            extent=extent,
            texts=texts,
        )
        if y_ticks:
            figure.update_yaxes(tickvals=[value for value, _ in y_ticks], ticktext=[text for _, text in y_ticks])
        return figure
    from matplotlib.figure import Figure

    cell = 0.45 if texts is None else 0.8  # inches
    wide = min(14.0, max(4.9, cell * values.shape[1] + 1.5)) if columns is not None else 4.9
    x_room = 0.065 * max((len(_short(name)) for name in columns), default=0) if columns is not None else 0.0  # inches
    high_in = min(12.0, max(3.6, 0.28 * values.shape[0] + 1.0 + x_room)) if rows is not None else 4.2
    figure = Figure(figsize=(wide, high_in), layout="constrained", facecolor=facecolor)
    axes = figure.add_subplot()
    _set_title(axes, title, wide)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    image = axes.imshow(
        values, aspect="auto", cmap=color_map, vmin=low, vmax=high, extent=extent, interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, extend=_extend(values, low, high) if clipped else "neither")
    bar.set_label(unit, fontsize=8)
    if rows is not None:
        ticks = _ticks(len(rows), (high_in - 1.2) / _ROW_INCHES)
        axes.set_yticks(ticks, [_short(rows[i]) for i in ticks], fontsize=8)
    if columns is not None:
        ticks = _ticks(len(columns), (wide - 2.2) / _COLUMN_INCHES)
        upright = max(len(_short(columns[i])) for i in ticks) <= 3
        style: dict[str, Any] = {} if upright else {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(ticks, [_short(columns[i]) for i in ticks], fontsize=8, **style)
    if y_ticks:
        axes.set_yticks([value for value, _ in y_ticks], [text for _, text in y_ticks])
    for r, row in enumerate(texts or ()):
        for c, text in enumerate(row):
            if scale == "sequential":
                dark_cell = values[r, c] < low + 0.6 * (high - low)
            else:
                dark_cell = abs(values[r, c]) > 0.6 * high
            axes.text(c, r, plain(text), ha="center", va="center", fontsize=7, color="white" if dark_cell else "black")
    figure.set_label(title)
    return figure


def bar_chart(
    labels: Sequence[str],
    values: Float[np.ndarray, "bar"],
    *,
    title: str,
    unit: str,
    intervals: Float[np.ndarray, "bar 2"] | None = None,
    facecolor: str = "none",
    backend: Backend = "matplotlib",
) -> Any:
    """Draw horizontal bars, the first on top, with ``intervals`` (low, high) as lines. Returns a matplotlib or plotly
    figure."""
    errors = None if intervals is None else np.abs(intervals - values[:, None]).T
    if check_backend(backend) == "plotly":
        return plotly_bars(labels, values, title=title, unit=unit, errors=errors)
    from matplotlib.figure import Figure

    wide = 5.5
    figure = Figure(figsize=(wide, max(1.8, 0.2 * len(labels) + 1.1)), layout="constrained", facecolor=facecolor)
    axes = figure.add_subplot()
    _set_title(axes, title, wide)
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0.5 * finite.max():  # bars from 0 would all look alike
        axes.plot(values, range(len(labels)), "o", color="tab:blue")
        axes.grid(axis="y", alpha=0.3)
    else:
        axes.barh(range(len(labels)), values, color="tab:blue")
        axes.axvline(0, color="black", linewidth=0.8)
    if errors is not None:
        axes.errorbar(values, range(len(labels)), xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(range(len(labels)), [_short(label, 30) for label in labels], fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.set_label(title)
    return figure


def line_chart(
    lines: Mapping[str, tuple[Sequence[float | int] | np.ndarray, Sequence[float | int] | np.ndarray]],
    *,
    title: str,
    x: str,
    y: str,
    facecolor: str = "none",
    backend: Backend = "matplotlib",
) -> Any:
    """Draw named lines, each a pair of x and y values. Returns a matplotlib or plotly figure."""
    if check_backend(backend) == "plotly":
        from plotly import graph_objects

        figure = graph_objects.Figure(
            [graph_objects.Scatter(x=xs, y=ys, name=name) for name, (xs, ys) in lines.items()]
        )
        figure.update_layout(title=title, xaxis_title=x, yaxis_title=y)
        return figure
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    many = len(lines) > _LINES_WITH_LEGEND_INSIDE
    wide = 8.0 if many else 5.5
    figure = Figure(figsize=(wide, 3.4 if len(lines) < 16 else 4.4), layout="constrained", facecolor=facecolor)
    axes = figure.add_subplot()
    colors = matplotlib.rcParams["axes.prop_cycle"]
    axes.set_prop_cycle(cycler(linestyle=["-", "--", ":", "-."]) * colors)  # for more lines than colors
    _set_title(axes, title, wide)
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, label=plain(name), marker="." if len(xs) < 60 else None)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if many:
        figure.legend(loc="outside right upper", fontsize=8)
    elif len(lines) > 1:
        axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.set_label(title)
    return figure


def _limits(values: np.ndarray, scale: Scale, clip: float) -> tuple[float, float, str]:
    """Return where the colors start and end, and the percentiles if these cut any value off."""
    known = values[np.isfinite(values)]
    if scale == "diverging":
        top = float(np.percentile(np.abs(known), clip)) if known.size else 1.0
        top = top or (float(np.abs(known).max()) if known.size else 1.0) or 1.0
        return -top, top, f"percentile {clip:g} of the size" if known.size and np.abs(known).max() > top else ""
    low = float(np.percentile(known, 100 - clip)) if known.size else 0.0
    high = float(np.percentile(known, clip)) if known.size else 1.0
    if not high > low:
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        return low, (high if high > low else low + 1.0), ""
    return low, high, f"percentiles {100 - clip:g} and {clip:g}" if clip < 100 else ""


def _extend(values: np.ndarray, low: float, high: float) -> str:
    known = values[np.isfinite(values)]
    below, above = bool((known < low).any()), bool((known > high).any())
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def _set_title(axes: Any, title: str, wide: float) -> None:
    lines = textwrap.wrap(title, max(20, int(_TITLE_CHARACTERS * (wide - 0.9))))
    axes.set_title(plain("\n".join(lines)), loc="left", fontsize=12, fontweight="bold")


def _short(label: str, most: int = _LONGEST_LABEL) -> str:
    return plain(label if len(label) <= most else label[: most - 1] + "…")


def plain(text: str) -> str:
    """Return text that matplotlib does not read as a formula: words and tokens have dollar signs."""
    return text.replace("$", r"\$")


def _ticks(n: int, room: float) -> list[int]:
    """Return indices of evenly spaced ticks, as many as there is room for."""
    return list(range(0, n, max(1, -(-n // max(1, int(room))))))
