"""Parts of a finding besides its criteria: arrays with named axes, tables, example transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Number = float | int  # mypy takes an int for a float, the run-time checks under pytest do not


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a measurement. Its entries are numbers in ``unit``, or labels."""

    name: str
    entries: tuple[Any, ...]
    unit: str = ""


BOUNDS = Axis("bound", ("value", "low", "high"))
"""The axis of an estimate: its value and the ends of its 95 % interval."""


@dataclass(frozen=True, eq=False)
class Measurement:
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
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(f"measurement {self.name!r} has no axis {name!r}: {[a.name for a in self.axes]}")

    def at(self, **where: Any) -> np.ndarray:
        """Return the values at an entry of each named axis: ``m.at(rows="all")``."""
        index: list[Any] = []
        unknown = set(where) - {axis.name for axis in self.axes}
        if unknown:
            raise KeyError(f"measurement {self.name!r} has no axis {sorted(unknown)}")
        for axis in self.axes:
            index.append(axis.entries.index(where[axis.name]) if axis.name in where else slice(None))
        return np.asarray(self.values[tuple(index)])


@dataclass(frozen=True)
class Table:
    """A table of text, of this run or of other authors (``source``)."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Span:
    """A span of an example's audio, in seconds."""

    start: Number
    end: Number
    label: str


@dataclass(frozen=True)
class Example:
    """A reference and its transcripts: pairs of condition and text. ``utterance`` is the id of the clip."""

    utterance: str
    speaker: str
    reference: str
    transcripts: tuple[tuple[str, str], ...]
    spans: tuple[Span, ...] = ()
    note: str = ""
