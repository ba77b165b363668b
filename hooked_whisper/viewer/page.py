"""The page of an attention view: one HTML file with data, script, spectrogram and sound."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from hooked_whisper._support.storage import AnyPath, Place, as_path, write_atomic
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.protocols import STACKS, HeadLike, HeadRef, Interval, Stack
from hooked_whisper.viewer.packing import LEVELS
from hooked_whisper.viewer.patterns import HeadMap

MapScale = Literal["linear", "log", "percentile"]
AxisKind = Literal["time", "token"]
_PALETTES = {"light": "BuPu", "dark": "magma"}
_FRAME_HEIGHT = 820  # pixels, before the script fits the frame to the page
_NAMES: dict[Stack, str] = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
}


@dataclass(frozen=True)
class MapAxis:
    """Rows or columns of a map.

    Attributes:
        kind: cells of time, or tokens.
        labels: of tokens.
        spans: seconds of each row or column; ``None`` if unknown.
        notes: what to say about each token.
    """

    kind: AxisKind
    labels: tuple[str, ...] = ()
    spans: tuple[tuple[float, float] | None, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_option("kind", self.kind, get_args(AxisKind))


@dataclass(frozen=True, eq=False, repr=False)
class AttentionView:
    """The attention of the heads of a stack over one clip; make it with :func:`view_attention`.

    A notebook shows it. :meth:`save` writes a page that opens from disk, and :meth:`values` returns what it shows.
    """

    model: str
    clip: str
    title: str
    stack: Stack
    heads: tuple[HeadRef, ...]
    selected: HeadRef
    seconds: float
    words: tuple[Interval, ...]
    words_source: str
    spectrogram: bytes | None
    audio: str | None
    scale: MapScale
    rows: MapAxis
    columns: MapAxis
    positions_per_cell: int = 1
    maps: Mapping[HeadRef, HeadMap] = field(default_factory=dict)
    before: Mapping[HeadRef, HeadMap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_option("stack", self.stack, STACKS)
        check_option("scale", self.scale, get_args(MapScale))

    def values(self, head: HeadLike, *, before: bool = False) -> Float[np.ndarray, "row column"]:
        """Return the map of a head as the page shows it, rounded to 1/65535 of its largest value.

        Over time a cell joins :attr:`positions_per_cell` encoder positions: sum over keys, mean over queries.

        Args:
            before: the map without the hooks and masks that the view was made with.

        Raises:
            ArgumentError: the head is not shown, or the view was made without hooks and masks.
        """
        return self._map(head, before).cells.values()

    def outside(self, head: HeadLike, *, before: bool = False) -> Float[np.ndarray, "row"]:
        """Return the attention of each row to positions after the end of the clip, as :meth:`values`."""
        return self._map(head, before).outside.values()

    def _map(self, head: HeadLike, before: bool) -> HeadMap:
        ref = HeadRef.parse(head, self.stack)
        if before and not self.before:
            raise ArgumentError("the view has no intervention: make it with fwd_hooks= or attn_masks=")
        if ref not in self.maps:
            listed = ", ".join(map(str, self.heads[:6])) + (", ..." if len(self.heads) > 6 else "")
            raise ArgumentError(f"{ref} is not shown, only {listed}: add it to heads")
        return self.before[ref] if before else self.maps[ref]

    def with_time_cells(self, time: TimeMap, n_positions: int, width: int) -> AttentionView:
        """Return the view with axes of time in cells of ``width`` encoder positions."""
        starts = range(0, n_positions, width)
        cells = [time.span_seconds(slice(start, min(start + width, n_positions))) for start in starts]
        axis = MapAxis("time", spans=tuple((start, min(end, self.seconds)) for start, end in cells))
        rows, columns = (axis if old.kind == "time" else old for old in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns, positions_per_cell=width)

    @property
    def resolution(self) -> str:
        """What one cell of a map is, in a sentence."""
        width, step = self.positions_per_cell, 20 * self.positions_per_cell
        if self.stack == "decoder":
            return "One row and one column are one token each."
        cell = "one encoder position (20 ms)" if width == 1 else f"{width} encoder positions ({step} ms)"
        if self.stack == "cross":
            return f"One row is one token, one column {cell}" + (
                "." if width == 1 else ", whose attention is added up."
            )
        if width == 1:
            return f"One row and one column are {cell} each."
        return f"One row and one column are {cell} each: attention is added up over a column and averaged over a row."

    def to_html(self) -> str:
        """Return the page."""
        template = _environment().get_template("attention.html.j2")
        return str(template.render(view=self, facts=self._facts(), name=_NAMES[self.stack], levels=LEVELS))

    def save(self, path: Place) -> AnyPath:
        """Write the page atomically and return its path."""
        target = as_path(path)
        write_atomic(target, self.to_html().encode())
        return target

    def _repr_html_(self) -> str:
        label = f"{self.title}: {_NAMES[self.stack]}"
        return (
            f'<iframe srcdoc="{escape(self.to_html())}" title="{escape(label)}" '
            f'style="width: 100%; height: {_FRAME_HEIGHT}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        shape = f"{len(self.rows.spans)} x {len(self.columns.spans)} cells"
        clip = f" over {self.clip!r}" if self.clip else ""
        size = len(self.to_html().encode()) / 1e6
        plural = "" if len(self.heads) == 1 else "s"
        return (
            f"AttentionView({self.model!r}, {_NAMES[self.stack]}, {len(self.heads)} head{plural}, "
            f"{self.seconds:.2f} s{clip}, {shape}, page of {size:.2f} MB)"
        )

    def _facts(self) -> dict[str, Any]:
        """Return the data for the script."""
        spectrogram = None
        if self.spectrogram is not None:
            spectrogram = "data:image/png;base64," + base64.b64encode(self.spectrogram).decode("ascii")
        return {
            "stack": self.stack,
            "heads": [_head_facts(head, self.maps.get(head), self.before.get(head)) for head in self.heads],
            "selected": self.heads.index(self.selected),
            "seconds": round(self.seconds, 3),
            "words": [[round(word.start, 3), round(word.end, 3), word.label] for word in self.words],
            "rows": _axis_facts(self.rows),
            "columns": _axis_facts(self.columns),
            "scale": self.scale,
            "spectrogram": spectrogram,
            "audio": self.audio,
            "palettes": {mode: _palette(name) for mode, name in _PALETTES.items()},
        }


def _head_facts(head: HeadRef, after: HeadMap | None, before: HeadMap | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(head), "block": head.block, "head": head.head}
    if after is not None:
        versions = {"after": after} if before is None else {"after": after, "before": before}
        facts |= {"largest": after.cells.largest, "most_outside": after.outside.largest}
        facts["versions"] = {
            name: {"cells": version.cells.text, "outside": version.outside.text if version.outside.largest else None}
            for name, version in versions.items()
        }
    return facts


def _axis_facts(axis: MapAxis) -> dict[str, Any]:
    spans = [None if span is None else [round(span[0], 3), round(span[1], 3)] for span in axis.spans]
    return {"kind": axis.kind, "labels": axis.labels, "spans": spans, "notes": axis.notes}


@cache
def _palette(name: str) -> str:
    """Return 256 colors as base64 of red, green and blue bytes."""
    from matplotlib import colormaps

    colors = np.asarray(colormaps[name](np.linspace(0, 1, 256), bytes=True), np.uint8)[:, :3]
    return base64.b64encode(colors.tobytes()).decode("ascii")


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("hooked_whisper.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
