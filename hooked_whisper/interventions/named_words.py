"""Words by name: the interval of ``"country"`` in an alignment, or of its second occurrence."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Protocol, TypeGuard, runtime_checkable

from hooked_whisper.errors import PatchError
from hooked_whisper.protocols import Interval
from hooked_whisper.text.wer import bare_word


@runtime_checkable
class HasWords(Protocol):
    """An alignment: :class:`~hooked_whisper.protocols.Alignment`, or what :func:`~hooked_whisper.analysis.align`
    returns."""

    @property
    def words(self) -> Sequence[Interval]: ...


Words = HasWords | Sequence[Interval]
WordName = str | tuple[str, int]
"""A word, or a word and which of its occurrences: ``"country"``, ``("country", 2)`` for the second one."""
_LISTED = 12


def is_word_name(value: Any) -> TypeGuard[WordName]:
    """Whether ``value`` is a word by name rather than a span."""
    return isinstance(value, str) or (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str))


def find_word(words: Words, name: WordName, occurrence: int | None = None) -> Interval:
    """Return the interval of a word, or of several consecutive words, in an alignment.

    Args:
        words: an alignment, or its words.
        name: compared without case, surrounding punctuation and the shape of apostrophes: ``"country"``,
            ``"your country"``; or with its occurrence, ``("country", 2)``.
        occurrence: which one, counted from 1, if the word is spoken more than once.

    Raises:
        PatchError: the name is empty, the word is not spoken, is spoken more than once and ``occurrence`` is missing,
            or has no such occurrence.
    """
    if isinstance(name, tuple):
        name, occurrence = name
    if not name.strip():
        raise PatchError(f"the name of a word is empty: {name!r}; give a word, such as 'country'")
    if occurrence is not None and (isinstance(occurrence, bool) or not isinstance(occurrence, Integral)):
        raise PatchError(
            f"the occurrence of {name!r} is {occurrence!r}: count from 1, as in ({name!r}, 2); "
            "for several words, give a list"
        )
    intervals = list(words.words if isinstance(words, HasWords) else words)
    labels = [_compared(interval.label) for interval in intervals]
    parts = [_compared(part) for part in name.split()]
    starts = [k for k in range(len(labels) - len(parts) + 1) if labels[k : k + len(parts)] == parts]
    matches = [
        Interval(
            intervals[k].start,
            intervals[k + len(parts) - 1].end,
            _text(intervals[k : k + len(parts)]) if len(parts) > 1 else intervals[k].label,
        )
        for k in starts
    ]
    if not matches:
        raise PatchError(_unknown(name, parts, intervals, labels))
    if occurrence is None and len(matches) > 1:
        raise PatchError(
            f"{name!r} is spoken {len(matches)} times: {_times(matches)}; give ({name!r}, 2) for the second"
        )
    number = 1 if occurrence is None else occurrence
    if not 1 <= number <= len(matches):
        raise PatchError(_no_occurrence(name, number, matches))
    return matches[number - 1]


def _compared(word: str) -> str:
    """Return a word as it is compared: composed characters, straight apostrophes."""
    return bare_word(unicodedata.normalize("NFC", word).strip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def _text(intervals: Sequence[Interval]) -> str:
    return " ".join(interval.label.strip() for interval in intervals)


def _times(matches: Sequence[Interval]) -> str:
    listed = [f"{n} at {match.start:.2f}-{match.end:.2f} s" for n, match in enumerate(matches[:_LISTED], 1)]
    return ", ".join(listed) + (", ..." if len(matches) > _LISTED else "")


def _no_occurrence(name: str, number: int, matches: Sequence[Interval]) -> str:
    if len(matches) == 1:
        times = f"it is spoken only once, at {matches[0].start:.2f}-{matches[0].end:.2f} s; give {name!r}"
    else:
        times = f"it is spoken {len(matches)} times: {_times(matches)}; give ({name!r}, {len(matches)}) for the last"
    return f"there is no occurrence {number} of {name!r}: {times}"


def _unknown(name: str, parts: Sequence[str], intervals: Sequence[Interval], labels: Sequence[str]) -> str:
    if not intervals:
        return f"there is no word {name!r}: the alignment has no words"
    near = [get_close_matches(part, labels, 1) for part in parts]
    missing = [part for part in parts if part not in labels]
    text = _text(intervals[:_LISTED]) + (" ..." if len(intervals) > _LISTED else "")
    hint = ""
    if missing and all(near):
        hint = f": did you mean {' '.join(match[0] for match in near)!r}?"
    elif not missing:
        hint = ": these words do not follow each other"
    return f"{name!r} is not spoken in {text!r}{hint}"
