"""Geometry of the figures of a unit page, which the templates render."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked_whisper.report.units.data import DepthHistogram, Histogram, Number, OnsetMeans, Unit

WIDTH, HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 8.0, 34.0
_LABELS = 44.0  # width of the labels of lines
_LINE = 11.0  # smallest distance between two labels
_PER_FIGURE, COLORS = 6, 10


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class HistogramFigure:
    """Bars over a logarithmic count axis. ``marks`` are the edges of the activation ranges."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[float, ...]
    alt: str


@dataclass(frozen=True)
class OnsetLine:
    """Mean activation of a unit around the onsets of one phone."""

    phone: str
    color: int
    points: str
    label_y: float
    title: str


@dataclass(frozen=True)
class OnsetFigure:
    """Lines over the time from the onset."""

    lines: tuple[OnsetLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero_x: float | None
    label_x: float
    alt: str


def phone_colors(unit: Unit) -> dict[str, int]:
    """Color number of each phone on the page: phones with the largest share in a range first, then by onset means."""
    largest: dict[str, float] = {}
    for phone, share in ((p.phone, float(p.share)) for r in unit.ranges for p in r.phones):
        largest[phone] = max(share, largest.get(phone, 0.0))
    phones = sorted(largest, key=lambda p: (-largest[p], p))[:_PER_FIGURE]
    if unit.onset is not None:
        means = unit.onset.means
        phones += [p for p in sorted(means, key=lambda p: (-float(means[p].max()), p))[:_PER_FIGURE] if p not in phones]
    return {phone: i for i, phone in enumerate(phones[:COLORS])}


def histogram_figure(histogram: Histogram, unit: Unit) -> HistogramFigure:
    """Bars, ticks and range edges of a unit's histogram."""
    edges = sorted({float(e) for r in unit.ranges for e in (r.low, r.high)})
    return counts_figure(histogram, edges, "activations")


def depth_figure(depths: DepthHistogram) -> HistogramFigure:
    """Bars of where the features of a crosscoder write."""
    return counts_figure(depths.histogram, (), "features")


def counts_figure(histogram: Histogram, inner: Sequence[float], counted: str) -> HistogramFigure:
    """Bars, ticks and inner edges of a histogram. counted: what it counts, for the text alternative."""
    edges, counts = histogram.edges, histogram.counts
    x = _axis(float(edges[0]), float(edges[-1]), _LEFT, WIDTH - _RIGHT)
    decades = max(1, math.ceil(math.log10(max(1, int(counts.max())) + 1)))
    base = math.log10(0.7)  # a count of 1 must be visible as a bar
    y = _axis(base, decades, HEIGHT - _BOTTOM, _TOP)
    bars = [
        Bar(x(a), y(math.log10(c)), max(0.5, x(b) - x(a) - 0.6), HEIGHT - _BOTTOM - y(math.log10(c)), _bin(a, b, c))
        for a, b, c in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        if c
    ]
    marks = tuple(x(e) for e in inner if edges[0] <= e <= edges[-1])
    step = max(1, math.ceil(decades / 4))
    y_ticks = tuple(Tick(y(k), _power(k)) for k in range(0, decades + 1, step))
    alt = f"Histogram of {int(counts.sum()):,} {counted} from {edges[0]:.3g} to {edges[-1]:.3g}, logarithmic counts"
    return HistogramFigure(tuple(bars), _ticks(float(edges[0]), float(edges[-1]), x), y_ticks, marks, alt)


def onset_figure(onset: OnsetMeans, colors: dict[str, int]) -> OnsetFigure | None:
    """Lines of the phones that have a color; ``None`` if no phone has one."""
    phones = [p for p in onset.means if p in colors]
    if not phones:
        return None
    rows = np.stack([onset.means[p] for p in phones]).astype(float)
    low, high = min(0.0, float(rows.min())), float(rows.max())
    high = high if high > low else low + 1.0
    lags = onset.lags_s.astype(float)
    label_x = WIDTH - _LABELS
    x, y = _axis(lags[0], lags[-1], _LEFT, label_x), _axis(low, high, HEIGHT - _BOTTOM, _TOP + 4)
    label_places = spread(np.array([y(v) for v in rows[:, -1]]), _LINE, _TOP + 4, HEIGHT - _BOTTOM)
    lines = []
    for phone, row, place in zip(phones, rows, label_places.tolist(), strict=True):
        peak = int(row.argmax())
        points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(lags.tolist(), row.tolist(), strict=True))
        title = f"{phone}: largest {row[peak]:.3g} at {1000 * lags[peak]:.0f} ms"
        lines.append(OnsetLine(phone, colors[phone], points, place, title))
    alt = "Mean activation by time from the onset of phones. " + "; ".join(line.title for line in lines)
    zero = x(0.0) if lags[0] <= 0 <= lags[-1] else None
    x_ticks = tuple(Tick(t.position, f"{1000 * float(t.text):.0f}") for t in _ticks(lags[0], lags[-1], x))
    return OnsetFigure(tuple(lines), x_ticks, _ticks(low, high, y), zero, label_x + 4, alt)


def spread(places: Float[np.ndarray, "n"], gap: Number, low: Number, high: Number) -> Float[np.ndarray, "n"]:
    """Move places for labels apart by at least ``gap``, in their order and up to ``high``, as far as there is room."""
    order = np.argsort(places, kind="stable")
    n = len(places)
    gap = min(float(gap), (high - low) / max(1, n - 1))
    steps = gap * np.arange(n)
    # places - steps must not decrease; each place must leave room for those after it
    placed = np.minimum(np.maximum.accumulate(np.maximum(places[order], low) - steps), high - gap * (n - 1)) + steps
    out = np.empty(n)
    out[order] = placed
    return out


def _axis(low: Number, high: Number, start: Number, end: Number) -> Callable[[Number], float]:
    return lambda value: round(start + (float(value) - low) / (high - low) * (end - start), 2)


def _ticks(low: float, high: float, axis: Callable[[Number], float]) -> tuple[Tick, ...]:
    from matplotlib.ticker import MaxNLocator

    values = [
        float(v) for v in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low - 1e-9 <= v <= high + 1e-9
    ]
    return tuple(Tick(axis(v), f"{v:.4g}") for v in (0.0 if abs(v) < 1e-12 else v for v in values))


def _power(k: int) -> str:
    """10 to the power k in short form: 100, 10k, 1M."""
    return str(10 ** (k % 3)) + ("", "k", "M", "G", "T")[k // 3]


def _bin(low: float, high: float, count: int) -> str:
    return f"{low:.3g} to {high:.3g}: {count:,}"
