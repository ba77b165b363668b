"""Parts of a finding besides its criteria: arrays with named axes, tables, example transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from hooked_whisper._support.heatmap import bar_chart, heat_map, line_chart
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted, joined

Number = float | int  # mypy takes an int for a float, the run-time checks under pytest do not


@dataclass(frozen=True, eq=False, repr=False)
class Axis(Showing):
    """One axis of a measurement. Its entries are numbers in ``unit``, or labels."""

    name: str
    entries: tuple[Any, ...]
    unit: str = ""


BOUNDS = Axis("bound", ("value", "low", "high"))
"""The axis of an estimate: its value and the ends of its 95 % interval."""


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(Tabular):
    """An array with named axes. NaN means undefined and is saved as ``null``."""

    name: str
    axes: tuple[Axis, ...]
    values: np.ndarray
    unit: str = ""

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=float)
        object.__setattr__(self, "values", values)
        lengths = tuple(len(axis.entries) for axis in self.axes)
        if values.shape != lengths:
            raise ValueError(f"measurement {self.name!r}: values {values.shape} do not fit its axes {lengths}")

    def axis(self, name: str) -> Axis:
        """Return the axis of a name.

        Raises:
            KeyError: the measurement has no such axis.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(f"measurement {self.name!r} has no axis {name!r}: {[a.name for a in self.axes]}")

    def at(self, **where: Any) -> np.ndarray:
        """Return the values at one entry of each named axis, as in ``wer.at(mask="all rows", bound="value")``.

        Raises:
            KeyError: the measurement has no axis of that name, or the axis has no such entry.
        """
        for name, entry in where.items():
            entries = self.axis(name).entries
            if entry not in entries:
                raise KeyError(f"axis {name!r} of measurement {self.name!r} has no entry {entry!r}: {list(entries)}")
        index = [axis.entries.index(where[axis.name]) if axis.name in where else slice(None) for axis in self.axes]
        return np.asarray(self.values[tuple(index)])

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per value: the entry of each axis, and the value under the measurement's name."""
        return [
            {axis.name: axis.entries[i] for axis, i in zip(self.axes, index, strict=True)}
            | {self.name: float(self.values[index])}
            for index in np.ndindex(*self.values.shape)
        ]

    def summary(self) -> Summary:
        title = f"Measurement: {self.name}" + (f" ({self.unit})" if self.unit else "")
        finite = self.values[np.isfinite(self.values)]
        values = f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "no finite value"
        rows = tuple((axis.name, len(axis.entries), axis.unit or "-", joined(axis.entries)) for axis in self.axes)
        notes = (f"{counted(self.values.size, 'value')}: {values}",)
        return Summary(title, notes, ("axis", "entries", "unit", "values"), rows)

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the values: one axis as a line or as bars, more as a heat map with the last axis across. Intervals are
        left out. ``backend="plotly"`` returns a plotly figure."""
        axes, values = list(self.axes), self.values
        for number, axis in reversed(list(enumerate(axes))):
            if axis.name == BOUNDS.name and "value" in axis.entries:
                values = np.take(values, axis.entries.index("value"), axis=number)
                del axes[number]
        title, unit = title or self.name, self.unit or self.name
        names = [f"{axis.name} ({axis.unit})" if axis.unit else axis.name for axis in axes]
        if not axes:
            return bar_chart([self.name], values.reshape(1), title=title, unit=unit, facecolor="white", backend=backend)
        if len(axes) == 1:
            entries = axes[0].entries
            if all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries):
                lines = {self.name: (entries, values)}
                return line_chart(lines, title=title, x=names[0], y=unit, facecolor="white", backend=backend)
            labels = [str(entry) for entry in entries]
            return bar_chart(labels, values, title=title, unit=unit, facecolor="white", backend=backend)
        down = [", ".join(map(str, entries)) for entries in product(*(axis.entries for axis in axes[:-1]))]
        return heat_map(
            values.reshape(-1, values.shape[-1]),
            title=title,
            x=names[-1],
            y=", ".join(names[:-1]),
            unit=unit,
            rows=down,
            columns=[str(entry) for entry in axes[-1].entries],
            facecolor="white",
            backend=backend,
        )


@dataclass(frozen=True, repr=False)
class Table(Tabular):
    """A table of text. ``source`` says whether it is from this run or from other authors."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def summary(self) -> Summary:
        return Summary(self.title, (self.source,), self.columns, self.rows)


@dataclass(frozen=True)
class Span:
    """A span of an example's audio, in seconds."""

    start: Number
    end: Number
    label: str


@dataclass(frozen=True)
class Example:
    """A reference text and transcripts of the same clip, as pairs of condition and text. ``utterance`` is the clip's
    id."""

    utterance: str
    speaker: str
    reference: str
    transcripts: tuple[tuple[str, str], ...]
    spans: tuple[Span, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class PageLink:
    """A page beside the page of findings: its path from the folder of both, and the text of the link."""

    path: str
    text: str
