"""Convert docstrings for sphinx: parameters become lists, and signatures are shown as in the source.

A docstring has text, parameter lines (``name: description``, continued by indented lines), lists, and sections
(``Args:``, ``Returns:``, ``Raises:``) whose indented body has the same elements.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
_PARAMETER = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*|[A-Z]\w+(?:Error|Warning)): (.*)$")
_BULLET = re.compile(r"^[-*] (.*)$")
_LITERAL = re.compile(r"(``.+?``|:\w+:`[^`]+`|`[^`]+`|(?<!\S)\*\w[^*\n]*\w\*(?!\w))")


def as_rst(lines: Sequence[str]) -> list[str]:
    """Return a docstring as reStructuredText, with all accidental markup escaped."""
    out: list[str] = []
    for block in _blocks(lines):
        out += [*_rendered(block), ""]
    return out


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _rendered(block: list[str]) -> list[str]:
    margin = min(_indent(line) for line in block)
    block = [line[margin:] for line in block]
    if block[0].startswith(">>>"):
        return block
    if _SECTION.match(block[0]):
        return [f"**{block[0][:-1]}**", "", *(_rendered(block[1:]) if block[1:] else [])]
    out: list[str] = []
    for first, following in _items(block):
        text = " ".join([first, *(line.strip() for line in following)])
        parameter, bullet = _PARAMETER.match(first), _BULLET.match(first)
        if parameter:
            names = ", ".join(f"``{name.strip()}``" for name in parameter[1].split(","))
            out.append(f"- {names}: {escaped(text[len(parameter[1]) + 2 :])}")
        elif bullet:
            out.append(f"- {escaped(text[2:])}")
        else:
            out += [*([""] if out and out[-1].startswith("- ") else []), escaped(text)]
    return _with_blank_before_lists(out)


def _with_blank_before_lists(lines: list[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        if line.startswith("- ") and out and out[-1] and not out[-1].startswith("- "):
            out.append("")
        out.append(line)
    return out


def _items(block: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each first line of an item with its continuation lines."""
    first, following = block[0], list[str]()
    for line in block[1:]:
        begins = not _indent(line) and (_PARAMETER.match(line) or _BULLET.match(line))
        plain = not (_PARAMETER.match(first) or _BULLET.match(first))
        if begins or (not _indent(line) and not plain):
            yield first, following
            first, following = line, []
        else:
            following.append(line)
    yield first, following


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def escaped(text: str) -> str:
    """Escape asterisks, bars and trailing underscores outside literals."""
    parts = _LITERAL.split(text)
    return "".join(part if i % 2 else re.sub(r"([*|`\\]|_(?=\W|$))", r"\\\1", part) for i, part in enumerate(parts))


def signature(obj: Any) -> str | None:
    """Return the signature as in the source, without evaluating annotations."""
    try:
        parsed = inspect.signature(obj, eval_str=False)
    except (TypeError, ValueError):
        return None
    parameters = [
        p.replace(annotation=_AsWritten(p.annotation)) if isinstance(p.annotation, str) else p
        for name, p in parsed.parameters.items()
        if name not in ("self", "cls")
    ]
    return str(parsed.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _AsWritten(str):
    """An annotation that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def setup(app: Any) -> dict[str, Any]:
    def text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = as_rst(lines)

    def head(app: Any, what: str, name: str, obj: Any, options: Any, args: str, returns: str) -> tuple[str, str] | None:
        if what not in ("function", "class", "method"):
            return None
        written = signature(obj)
        return None if written is None else (written, "")

    app.connect("autodoc-process-docstring", text)
    app.connect("autodoc-process-signature", head)
    return {"parallel_read_safe": True}
