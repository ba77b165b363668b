"""Markdown tables, and replacement of the text between two markers in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def write_into(readme: Path, text: str, name: str = "bench") -> None:
    """Replace the text between the markers ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``; the rest of the file is
    unchanged.

    Raises:
        ValueError: the file lacks a marker."""
    first, last = (marker.replace("bench", name) for marker in (BEGIN, END))
    before, begin, after = readme.read_text().partition(first)
    _, end, after = after.partition(last)
    if not begin or not end:
        raise ValueError(f"{readme} has no {first} ... {last}")
    readme.write_text(f"{before}{first}\n{text}{last}{after}")
