"""Praat TextGrid: the long, the short and the chronological text format."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from hooked_whisper.corpora.tiers import ORIGIN, TEXT_SOURCE, USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

# A quoted string (Praat doubles inner quotes), a number, or a comment; the words around them carry no data.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])|![^\n]*')
_CHRONOLOGICAL = '"Praat chronological TextGrid text file"'
_CLASS = re.compile(r'Object class = "([^"\n]{1,40})|\A\s*File type = "ooTextFile"\s+"([^"\n]{1,40})')

_ABSENT = re.compile(r"^(tiers\? *)?<absent>", re.MULTILINE)

_SOURCE_TIER = "text source"
_ROUNDING_S = 1e-6


def to_textgrid(alignment: Alignment) -> str:
    """Write Praat's long text format with tiers ``words`` and ``phones``; silence is the empty label.

    If a model transcribed the text (``extra["text_source"]``), a third tier, ``text source``, names the model.
    """
    source = alignment.extra.get(TEXT_SOURCE, "")
    about = (Interval(0.0, alignment.duration, source),) if source else ()
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {alignment.duration!r}",
        "tiers? <exists>",
        f"size = {3 if about else 2}",
        "item []:",
        *_tier(1, "words", alignment.words, alignment.duration),
        *_tier(2, "phones", alignment.phones, alignment.duration),
        *(_tier(3, _SOURCE_TIER, about, alignment.duration) if about else ()),
    ]
    return "\n".join(lines) + "\n"


def from_textgrid(
    content: str, utterance: str = "", speaker: str = "", tiers: Tiers = USUAL, source: str = "TextGrid"
) -> Alignment:
    """Read a TextGrid in long, short or chronological text format. Point tiers and other interval tiers are skipped.

    Times are relative to the start of the TextGrid. If that is not 0, as in parts of a longer recording, it is in
    ``extra["origin"]``.

    Args:
        source: name of the file, for error messages.

    Raises:
        AlignmentError: the content is not a TextGrid or is broken, times are out of order, or no tier or several tiers
            have a requested name.
    """
    if "TextGrid" not in content[:200]:
        known = _CLASS.search(content[:200])
        content_type = f", but a Praat {known[1] or known[2]}" if known else ""
        raise AlignmentError(f"{source} is not a TextGrid{content_type}: its header does not contain the word TextGrid")
    values = _Values(content, source)
    if content.lstrip().startswith(_CHRONOLOGICAL):
        origin, end, named_tiers = _chronological(values)
    else:
        kind = _CLASS.search(content[:200])
        if kind and "TextGrid" not in (kind[1] or kind[2]):
            raise AlignmentError(
                f"{source} is a Praat {kind[1] or kind[2]} with a TextGrid in it: select the TextGrid alone in Praat "
                "and save it as a text file"
            )
        origin, end, named_tiers = _tier_by_tier(values, _ABSENT.search(content[:300]) is not None)
    duration = end - origin
    if not math.isfinite(duration):
        raise AlignmentError(f"{source}: the TextGrid lasts {duration:g} s: correct xmin and xmax")
    words, phones = (_tier_named(named_tiers, wanted, source) for wanted in (tiers.words, tiers.phones))
    if words is None and phones is None:
        names = ", ".join(repr(name) for name, _ in named_tiers) or "none"
        raise AlignmentError(
            f"{source} has no interval tier {tiers.words!r} or {tiers.phones!r}, but {names}: say which are words and "
            "phones, such as with Tiers(words='ORT', phones='MAU')"
        )
    words, phones = ([_moved(row, origin) for row in rows or []] for rows in (words, phones))
    alignment = make_alignment(
        words, phones, source, utterance=utterance, speaker=speaker, duration=duration, tiers=tiers
    )
    transcriber = next((rows[0].label for name, rows in named_tiers if name == _SOURCE_TIER and rows), "")
    extra = ({TEXT_SOURCE: transcriber} if transcriber else {}) | ({ORIGIN: repr(origin)} if origin else {})
    return replace(alignment, extra=extra)


_Tiers = list[tuple[str, list[Row]]]
"""Names and intervals of the interval tiers."""


def _tier_by_tier(values: _Values, absent: bool) -> tuple[float, float, _Tiers]:
    """Read start, end and tiers of the long or short format."""
    values.label(), values.label()  # the two header strings
    origin, end = values.number(), values.number()
    tiers: _Tiers = []
    for _ in range(0 if absent else values.count()):
        kind, name = values.label(), values.label()
        values.number(), values.number()
        if kind == "IntervalTier":
            tiers.append((name, [values.row() for _ in range(values.count())]))
        else:
            for _ in range(values.count()):
                values.number(), values.label()
    return origin, end, tiers


def _chronological(values: _Values) -> tuple[float, float, _Tiers]:
    """Read start, end and tiers of the chronological format, which mixes the intervals and points of all tiers."""
    values.label()  # the header
    origin, end = values.number(), values.number()
    kinds: list[tuple[str, str]] = []
    for _ in range(values.count()):
        kinds.append((values.label(), values.label()))
        values.number(), values.number()
    rows: list[list[Row]] = [[] for _ in kinds]
    while not values.done():
        number = values.count()
        if not 1 <= number <= len(kinds):
            raise values.error(f"tier {number} does not exist, there are {len(kinds)} tiers")
        if kinds[number - 1][0] == "IntervalTier":
            rows[number - 1].append(values.row())
        else:
            values.number(), values.label()
    return origin, end, [(name, tier) for (kind, name), tier in zip(kinds, rows, strict=True) if kind == "IntervalTier"]


def _moved(row: Row, origin: float) -> Row:
    """Return the row relative to the origin; a start just before it, by rounding, becomes 0."""
    start = row.start - origin
    return replace(row, start=0.0 if -_ROUNDING_S < start < 0 else start, end=row.end - origin)


class _Values:
    """The strings and numbers of a TextGrid, read in order."""

    def __init__(self, content: str, source: str) -> None:
        self._content, self._source = content, source
        self._matches = (match for match in _VALUE.finditer(content) if not match[0].startswith("!"))
        self._waiting = next(self._matches, None)
        self._offset, self._line = 0, 1

    def done(self) -> bool:
        return self._waiting is None

    def error(self, problem: str) -> AlignmentError:
        return AlignmentError(f"{self._source}, line {self._line}: TextGrid: {problem}")

    def _next(self) -> re.Match[str]:
        match, self._waiting = self._waiting, next(self._matches, None)
        if match is None:
            raise AlignmentError(f"{self._source}: the TextGrid ends early, after line {self._line}: export it again")
        self._line += self._content.count("\n", self._offset, match.start())
        self._offset = match.start()
        return match

    def number(self) -> float:
        match = self._next()
        if match[2] is None:
            raise self.error(f"expected a number, found {match[0]}")
        return float(match[2])

    def label(self) -> str:
        match = self._next()
        if match[1] is None:
            raise self.error(f"expected a quoted text, not {match[0]}")
        return match[1].replace('""', '"')

    def count(self) -> int:
        value = self.number()
        if not (math.isfinite(value) and value >= 0 and value == int(value)):
            raise self.error(f"{value:g} is not a size")
        return int(value)

    def row(self) -> Row:
        start, end, label = self.number(), self.number(), self.label()
        return Row(start, end, label, f"line {self._line}")


def _tier_named(tiers: list[tuple[str, list[Row]]], wanted: str, source: str) -> list[Row] | None:
    """Find a tier by name: exactly, or else ignoring case and a speaker's name before a dash."""
    exact = [rows for name, rows in tiers if name == wanted]
    alike = [(name, rows) for name, rows in tiers if name.rpartition(" - ")[2].strip().lower() == wanted.lower()]
    if len(exact) == 1:
        return exact[0]
    if len(alike) > 1:
        names = ", ".join(repr(name) for name, _ in alike)
        raise AlignmentError(f"{source} has several tiers of {wanted}, {names}: select one with its full name in Tiers")
    return alike[0][1] if alike else None


def _tier(number: int, name: str, intervals: tuple[Interval, ...], duration: float) -> list[str]:
    filled: list[tuple[float, float, str]] = []
    position = 0.0
    for interval in intervals:
        if interval.start > position:
            filled.append((position, interval.start, ""))
        filled.append((interval.start, interval.end, "" if interval.label == SILENCE else interval.label))
        position = interval.end
    if position < duration or not filled:
        filled.append((position, duration, ""))
    lines = [
        f"    item [{number}]:",
        '        class = "IntervalTier"',
        f'        name = "{name}"',
        "        xmin = 0",
        f"        xmax = {duration!r}",
        f"        intervals: size = {len(filled)}",
    ]
    for k, (start, end, label) in enumerate(filled, 1):
        quoted = label.replace('"', '""')
        lines += [
            f"        intervals [{k}]:",
            f"            xmin = {start!r}",
            f"            xmax = {end!r}",
            f'            text = "{quoted}"',
        ]
    return lines
