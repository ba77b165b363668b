"""Draw the map of hook points from the model's own list: the residual stream, and the modules that read and write
it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from hooked_whisper import HookedWhisper

ROW, BOX, WIDTH = 19, 12, 470
_TRUNK = re.compile(r"(hook_resid_\w+|hook_embed|hook_out|hook_mel|hook_tokens|conv2\.hook_post|hook_normalized)$")
_OF_BLOCK_0 = re.compile(r"^(encoder|decoder)\.blocks\.0\.")


@dataclass(frozen=True)
class Point:
    """A hook point, with the module to which it belongs within its block, and whether it is on the residual stream."""

    name: str
    axes: tuple[str, ...]
    optional: bool

    @property
    def short(self) -> str:
        return _OF_BLOCK_0.sub("", self.name)

    @property
    def module(self) -> str:
        return self.short.rpartition(".")[0] if _OF_BLOCK_0.match(self.name) else ""

    @property
    def on_stream(self) -> bool:
        return not self.module and bool(_TRUNK.search(self.name)) and ".ln_" not in self.name


def points(model: HookedWhisper, stack: str) -> list[Point]:
    """Return the points of a stack in the order of the forward pass. Of the blocks, only the first is included."""
    prefix = (stack,) if stack == "encoder" else (stack, "unembed")
    names = [n for n in model.hook_names() if n.startswith(prefix) and (".blocks." not in n or _OF_BLOCK_0.match(n))]
    return [Point(n, tuple(model.hook_dict[n].axes), model.hook_dict[n].optional) for n in names]


def hook_map(model: HookedWhisper) -> str:
    """Return an SVG of both stacks side by side, in the colors of the page."""
    columns = [_column(model, stack, left) for stack, left in (("encoder", 0), ("decoder", WIDTH + 20))]
    height = max(bottom for _, bottom in columns) + 10
    words = (
        "Hook points of encoder and decoder in the order of the forward pass; filled circles are on the residual stream"
    )
    return (
        f'<svg viewBox="0 0 {2 * WIDTH + 20} {height}" role="img" aria-label="{words}" '
        f'font-family="var(--font)" font-size="12" fill="var(--ink)">{"".join(part for part, _ in columns)}</svg>'
    )


def _column(model: HookedWhisper, stack: str, left: int) -> tuple[str, int]:
    n = (model.cfg.encoder if stack == "encoder" else model.cfg.decoder).n_layers
    y, parts, stream = 24, [_text(left + 4, 16, stack, "bold", size=15)], []
    for in_block, group in groupby(points(model, stack), lambda p: bool(_OF_BLOCK_0.match(p.name))):
        if in_block:
            y += 8
            top = y
            parts.append(_text(left + 34, y + 16, f"blocks 0 to {n - 1}: {stack}.blocks.L.", "bold"))
            y += ROW + 2
        for module, inner in groupby(group, lambda p: p.module):
            rows = list(inner)
            if module:
                parts.append(_rect(left + 52, y + 3, WIDTH - 70, ROW * len(rows) + 2))
                parts.append(f'<path d="M{left + 20} {y + 3 + BOX} H{left + 52}" stroke="var(--grid)"/>')
                y += 4
            for point in rows:
                parts.append(_row(point, left, y))
                if point.on_stream:
                    stream.append(y + ROW / 2 + 1)
                y += ROW
            y += 4 if module else 0
        if in_block:
            parts.append(_rect(left + 6, top, WIDTH - 12, y - top + 4))
            y += 12
    line = f'<path d="M{left + 20} {stream[0]} V{stream[-1]}" stroke="var(--ink)" stroke-width="2"/>'
    return line + "".join(parts), y


def _row(point: Point, left: int, y: float) -> str:
    x = left + (64 if point.module else 34)
    mark = f'<circle cx="{left + 20}" cy="{y + ROW / 2 + 1}" r="4"/>' if point.on_stream else ""
    style = "italic" if point.optional else ""
    return (
        mark
        + _text(x, y + 14, point.short, style)
        + _text(left + WIDTH - 26, y + 14, ", ".join(point.axes), "quiet", "end")
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start", size: int = 0) -> str:
    styles: Sequence[str] = {
        "bold": ['font-weight="700"'],
        "italic": ['font-style="italic"'],
        "quiet": ['opacity="0.6"', 'font-size="10"'],
    }.get(style, [])
    extra = [*styles, f'text-anchor="{anchor}"', *([f'font-size="{size}"'] if size else [])]
    return f'<text x="{x}" y="{y}" {" ".join(extra)}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="none" stroke="var(--grid)"/>'
