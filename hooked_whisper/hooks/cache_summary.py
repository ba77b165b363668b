"""What a cache shows: every activation if there are few, else activations of equal shape together and equal blocks
once."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

_MOST_LINES = 24  # more activations are grouped
_WIDTH = 120  # characters of a line
_IN_BLOCK = re.compile(r"(?P<stack>\w+\.blocks)\.(?P<block>\d+)\.(?P<path>.+)")


@dataclass(frozen=True)
class CachedTensor:
    """One entry of a cache: its name, axes with sizes, dtype and bytes."""

    name: str
    axes: str
    dtype: str
    nbytes: int

    @classmethod
    def of(cls, name: str, tensor: Tensor, axes: Sequence[str]) -> CachedTensor:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(axes, tensor.shape, strict=False))
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(name, f"[{sizes}]", dtype, tensor.numel() * tensor.element_size())


@dataclass(frozen=True)
class CacheSection:
    """Activations of one part of the model: axes -> names of the activations with these axes."""

    title: str
    shapes: Mapping[str, tuple[str, ...]]
    n_activations: int
    nbytes: int


def summary_text(title: str, entries: Sequence[CachedTensor]) -> str:
    """Return a cache as text of one screen."""
    if len(entries) <= _MOST_LINES:
        width = max((len(entry.name) for entry in entries), default=0)
        return "\n".join(
            [title, *(f"  {e.name:<{width}}  {e.axes}  {e.dtype}  {_mebibytes(e.nbytes, 2)}" for e in entries)]
        )
    lines = [title]
    for section in _sections(entries):
        lines.append(f"  {section.title}: {_size(section)}")
        for axes, names in section.shapes.items():
            indent = f"    {axes:<44}  "
            text = ", ".join(names)
            lines += textwrap.wrap(
                text, _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_long_words=False
            )
    return "\n".join(lines)


def summary_html(title: str, entries: Sequence[CachedTensor]) -> str:
    """Return a cache as escaped HTML without colors: one section per part of the model, opened by a click."""
    parts = [f"<strong>{escape(title)}</strong>"]
    few = len(entries) <= _MOST_LINES
    separator = "<br>" if few else " "
    for section in _sections(entries):
        rows = "".join(
            f'<tr><td style="text-align: left">{escape(axes)}</td>'
            f'<td style="text-align: left">{separator.join(f"<code>{escape(name)}</code>" for name in names)}</td></tr>'
            for axes, names in section.shapes.items()
        )
        parts.append(
            f"<details{' open' if few else ''}><summary><code>{escape(section.title)}</code>: "
            f"{escape(_size(section))}</summary><table><tbody>{rows}</tbody></table></details>"
        )
    return f"<div>{''.join(parts)}</div>"


def cache_title(entries: Sequence[CachedTensor], nbytes: int) -> str:
    """Return ``ActivationCache with 4 activations, 0.2 MiB``."""
    return f"ActivationCache with {_counted(len(entries))}, {_mebibytes(nbytes, 1)}"


def _sections(entries: Sequence[CachedTensor]) -> list[CacheSection]:
    """Return the parts of the model in order; blocks with the same activations form one part."""
    common = Counter(entry.dtype for entry in entries).most_common(1)
    usual = common[0][0] if common else str(torch.float32)
    by_part: dict[tuple[str, int | None], list[tuple[str, CachedTensor]]] = {}
    for entry in entries:
        match = _IN_BLOCK.fullmatch(entry.name)
        part, path = ((match["stack"], int(match["block"])), match["path"]) if match else _outside(entry.name)
        by_part.setdefault(part, []).append((path, entry))
    sections: list[CacheSection] = []
    blocks: list[int] = []
    for (stack, block), members in by_part.items():
        section = _section(stack, block, members, usual)
        last = sections[-1] if sections else None
        same = last is not None and last.title.startswith(f"{stack}.") and last.shapes == section.shapes
        if last is not None and block is not None and same and blocks and block == blocks[-1] + 1:
            blocks.append(block)
            title = f"{stack}.{blocks[0]}-{block}"
            n, nbytes = last.n_activations + section.n_activations, last.nbytes + section.nbytes
            sections[-1] = CacheSection(title, section.shapes, n, nbytes)
        else:
            blocks = [] if block is None else [block]
            sections.append(section)
    return sections


def _outside(name: str) -> tuple[tuple[str, None], str]:
    stack, _, path = name.partition(".")
    return (stack, None), path


def _section(stack: str, block: int | None, members: Sequence[tuple[str, CachedTensor]], usual: str) -> CacheSection:
    shapes: dict[str, tuple[str, ...]] = {}
    for path, entry in members:
        axes = entry.axes if entry.dtype == usual else f"{entry.axes} {entry.dtype}"
        shapes[axes] = (*shapes.get(axes, ()), path)
    title = stack if block is None else f"{stack}.{block}"
    return CacheSection(title, shapes, len(members), sum(entry.nbytes for _, entry in members))


def _size(section: CacheSection) -> str:
    return f"{_counted(section.n_activations)}, {_mebibytes(section.nbytes, 1)}"


def _counted(n: int) -> str:
    return f"{n} activation{'' if n == 1 else 's'}"


def _mebibytes(nbytes: int, digits: int) -> str:
    return f"{nbytes / 2**20:.{digits}f} MiB"
