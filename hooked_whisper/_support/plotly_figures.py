"""Which library draws a figure, and the plotly versions of the figures of :mod:`hooked_whisper._support.heatmap`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from hooked_whisper.errors import MissingExtraError, check_option

Backend = Literal["matplotlib", "plotly"]
_TAG = re.compile(r"</?\w[^<>]*>")
_COLORS = {"viridis": "Viridis", "PuOr": "PuOr"}


def check_backend(backend: str) -> str:
    """Return ``backend`` if it can draw here.

    Raises:
        ArgumentError: ``backend`` is unknown.
        MissingExtraError: it is plotly, which is not installed.
    """
    check_option("backend", backend, get_args(Backend))
    if backend == "plotly":
        _plotly()
    return backend


def _plotly() -> Any:
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise MissingExtraError(
            "backend='plotly' needs plotly: pip install 'hooked-whisper[plotly]', or leave out backend= for matplotlib"
        ) from error
    return plotly.graph_objects


def plotly_heat_map(
    values: Float[np.ndarray, "row column"],
    *,
    title: str,
    x: str,
    y: str,
    unit: str,
    colors: str,
    limits: tuple[float, float],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    extent: tuple[float | int, float | int, float | int, float | int] | None = None,
    texts: Sequence[Sequence[str]] | None = None,
) -> Any:
    """Return the heat map as a plotly figure; hovering shows row, column and value."""
    go = _plotly()
    left, right, bottom, top = extent or (-0.5, values.shape[1] - 0.5, values.shape[0] - 0.5, -0.5)
    xs, ys = _centers(left, right, values.shape[1]), _centers(top, bottom, values.shape[0])
    names = [
        [
            f"{y}: {markup(rows[r]) if rows is not None else f'{ys[r]:.4g}'}<br>"
            f"{x}: {markup(columns[c]) if columns is not None else f'{xs[c]:.4g}'}"
            for c in range(values.shape[1])
        ]
        for r in range(values.shape[0])
    ]
    heat = go.Heatmap(
        z=values,
        x=xs,
        y=ys,
        zmin=limits[0],
        zmax=limits[1],
        colorscale=_COLORS[colors],
        colorbar={"title": {"text": unit.replace("\n", "<br>"), "side": "right"}},
        hovertext=names,
        hovertemplate="%{hovertext}<br>%{z:.4g}<extra></extra>",
        text=None if texts is None else [[markup(text) for text in row] for row in texts],
        texttemplate="%{text}" if texts is not None else None,
    )
    figure = go.Figure(heat)
    figure.update_layout(title=markup(title), xaxis_title=x, yaxis_title=y)
    # numbers with texts, not categories: plotly would merge tokens that occur twice
    figure.update_xaxes(range=[left, right], **_ticks(columns))
    figure.update_yaxes(range=[bottom, top], **_ticks(rows))
    return figure


def plotly_bars(
    labels: Sequence[str],
    values: Float[np.ndarray, "bar"],
    *,
    title: str,
    unit: str,
    errors: Float[np.ndarray, "2 bar"] | None = None,
) -> Any:
    """Return horizontal bars as a plotly figure, the first on top. errors: lengths of lines to the left and right."""
    go = _plotly()
    numbers = list(range(len(labels)))
    bars = go.Bar(
        x=values,
        y=numbers,
        orientation="h",
        error_x=None if errors is None else {"symmetric": False, "arrayminus": errors[0], "array": errors[1]},
        hovertext=[markup(label) for label in labels],
        hovertemplate="%{hovertext}<br>%{x:.4g}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(title=markup(title), xaxis_title=unit)
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], **_ticks(labels))
    return figure


def _centers(start: float | int, stop: float | int, n: int) -> list[float]:
    step = (stop - start) / n
    return [start + step * (k + 0.5) for k in range(n)]


def _ticks(labels: Sequence[str] | None) -> dict[str, Any]:
    if labels is None:
        return {}
    return {"tickvals": list(range(len(labels))), "ticktext": [markup(label) for label in labels]}


def markup(text: str) -> str:
    """Return text that plotly shows as it is: words and tokens may look like its tags, such as ``<b>``."""
    return _TAG.sub(lambda match: match[0].replace("<", "&lt;"), text)
