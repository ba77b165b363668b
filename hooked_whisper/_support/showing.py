"""Results that show themselves: text of one screen, an HTML table for notebooks, and a pandas table."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hooked_whisper.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas

MOST_ROWS = 24
_WIDTH = 110  # characters of a line
_CELL = 48  # characters of a string in a cell
_LONGEST = 84  # characters of a cell
_LISTED = 4  # entries of a sequence
_PADDING = "padding: 0.1em 0.6em"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # line breaks and terminal codes, as in byte tokens
_SCANNED = 1_000_000  # larger arrays are shown without their range


@dataclass(frozen=True)
class Summary:
    """What a result shows: a title, a few lines, and a short table.

    columns: header of the table; without one, the first cell of each row is its name.
    rows: strings, numbers or ``None``.
    n_rows: length of the whole table, if ``rows`` are only the first.
    """

    title: str
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    n_rows: int | None = None

    def text(self) -> str:
        """Return the summary as plain text."""
        lines = textwrap.wrap(self.title, _WIDTH, subsequent_indent="  ")
        for note in self.notes:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines + self._table_lines())

    def html(self) -> str:
        """Return the summary as escaped HTML, without colors, so that it fits light and dark pages."""
        head = "".join(f'<th style="{_PADDING}">{escape(name)}</th>' for name in self.columns)
        body = "".join(f"<tr>{self._html_cells(row, cells)}</tr>" for row, cells in zip(*self._shown(), strict=True))
        table = f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
        notes, omitted = ("".join(f"<div>{escape(x)}</div>" for x in texts) for texts in (self.notes, self._omitted()))
        return f"<div><strong>{escape(self.title)}</strong>{notes}{table if self.rows else ''}{omitted}</div>"

    def _html_cells(self, row: tuple[Any, ...], texts: Sequence[str]) -> str:
        return "".join(
            f'<th style="text-align: left; {_PADDING}">{escape(text)}</th>'
            if k == 0 and not self.columns
            else f'<td style="text-align: {"right" if _is_number(cell) else "left"}; {_PADDING}">{escape(text)}</td>'
            for k, (cell, text) in enumerate(zip(row, texts, strict=True))
        )

    def _shown(self) -> tuple[tuple[tuple[Any, ...], ...], list[list[str]]]:
        """Rows that are shown, and their cells as text, with the same number of decimals in a column."""
        rows = self.rows[:MOST_ROWS]
        columns = [_column_texts(column) for column in zip(*rows, strict=True)] if self.columns else []
        if columns:
            return rows, [list(cells) for cells in zip(*columns, strict=True)]
        return rows, [[format_cell(cell) for cell in row] for row in rows]

    def _table_lines(self) -> list[str]:
        if not self.rows:
            return []
        rows, cells = self._shown()
        numeric = [all(_is_number(row[k]) or row[k] is None for row in rows) for k in range(len(rows[0]))]
        table = [list(self.columns), *cells] if self.columns else cells
        widths = [max(len(row[k]) for row in table) for k in range(len(rows[0]))]
        lines = []
        for row in table:
            columns = zip(row, widths, numeric, strict=True)
            line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in columns)
            lines.append(f"  {line}".rstrip()[: _WIDTH + 10])
        return lines + [f"  {note}" for note in self._omitted()]

    def _omitted(self) -> list[str]:
        total = len(self.rows) if self.n_rows is None else self.n_rows
        n_shown = min(len(self.rows), MOST_ROWS)
        return [f"... {total - n_shown} more of {total} rows"] if total > n_shown else []


class Showing:
    """A result with a short ``repr`` and an HTML table in notebooks. Dataclasses need ``repr=False``.

    Without a ``summary`` of the class, the fields are listed: arrays by shape, type and range, sequences by their first
    entries.
    """

    __slots__ = ()

    def summary(self) -> Summary:
        """Return what ``repr`` and notebooks show."""
        if not is_dataclass(self):
            raise NotImplementedError(f"{type(self).__name__} is not a dataclass: define summary()")
        shown = tuple((field.name, described(getattr(self, field.name))) for field in fields(self) if field.repr)
        return Summary(type(self).__name__, rows=shown)

    def __repr__(self) -> str:
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


class Tabular(Showing):
    """A result that is also a table of rows."""

    __slots__ = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per row."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """Return :meth:`to_rows` as a pandas table.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(self.to_rows())


def data_frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows as a pandas table.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("tables need pandas: pip install 'hooked-whisper[tables]'") from error
    return pandas.DataFrame([dict(row) for row in rows])


def _column_texts(column: Sequence[Any]) -> list[str]:
    """Texts of one column; floats with four digits of the largest, so that their points are aligned."""
    sizes = [abs(float(cell)) for cell in column if isinstance(cell, float | np.floating) and np.isfinite(cell)]
    largest = max(sizes, default=0.0)
    if not 1e-2 <= largest < 1e5:
        return [format_cell(cell) for cell in column]
    decimals = min(4, max(0, 3 - int(np.floor(np.log10(largest)))))
    return [
        f"{cell + 0.0:.{decimals}f}"
        if isinstance(cell, float | np.floating) and np.isfinite(cell)
        else format_cell(cell)
        for cell in column
    ]


def format_cell(value: Any) -> str:
    """Return one cell as text: numbers with four digits, ``None`` and NaN as ``-``."""
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return "-" if np.isnan(value) else f"{value:.4g}"
    text = _CONTROL.sub(lambda match: repr(match[0])[1:-1], str(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def described(value: Any) -> str:
    """Return one line about a value: shape, type and range of an array, the first entries of a sequence."""
    if isinstance(value, Tensor | np.ndarray):
        return _described_array(value)
    if isinstance(value, Showing):
        return value.summary().title
    if isinstance(value, str):
        return repr(value) if len(value) <= _CELL else repr(value[:_CELL]) + "..."
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        if len(value) > _LISTED:
            return _listed(value, len(value), "entry", "entries")
        return "; ".join(f"{key}: {described(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _listed(value, len(value), "entry", "entries") if len(value) > _LISTED else _flat(value)
    return _flat(value)


def counted(n: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 clip``, ``2 clips``."""
    return f"{n} {singular if n == 1 else plural or singular + 's'}"


def spread(n: int, most: int = MOST_ROWS) -> list[int]:
    """Return at most ``most`` of ``n`` indices, evenly spaced, the first and the last included."""
    return sorted({round(k * (n - 1) / (most - 1)) for k in range(most)}) if n > most else list(range(n))


def joined(texts: Iterable[object], most: int = 8) -> str:
    """Return texts joined by commas, the first ``most`` of them."""
    listed = [str(text) for text in texts]
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def visible(text: str) -> str:
    """Return ``text`` with leading and trailing spaces shown as ``␣``."""
    body = text.strip(" ")
    left = len(text) - len(text.lstrip(" "))
    right = len(text) - left - len(body)
    return "␣" * left + body + "␣" * right


def _listed(entries: Iterable[Any], n: int, singular: str, plural: str) -> str:
    first = [_flat(entry, 24) for entry, _ in zip(entries, range(_LISTED), strict=False)]
    return f"{counted(n, singular, plural)}: {', '.join(first)}, ..."


def _flat(value: Any, most: int = 100) -> str:
    """First line of a ``repr``, shortened."""
    if isinstance(value, list | tuple):
        text = "(" + ", ".join(described(entry) for entry in value) + ("," if len(value) == 1 else "") + ")"
    else:
        text = repr(value)
    first = text.split("\n")[0]
    return first if len(first) <= most else first[: most - 3] + "..."


def _described_array(x: Tensor | np.ndarray) -> str:
    kind = f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"
    size = int(np.prod(x.shape))
    if size == 0 or size > _SCANNED:
        return kind
    values = x.detach().cpu().float().numpy() if isinstance(x, Tensor) else x
    if values.dtype.kind not in "fiub":
        return kind
    finite = values[np.isfinite(values)]
    if not finite.size:
        return f"{kind}, no finite entry"
    low, high = float(finite.min()), float(finite.max())
    return f"{kind}, {low:.4g}" if low == high else f"{kind}, {low:.4g} to {high:.4g}"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float | np.integer | np.floating) and not isinstance(cell, bool)
