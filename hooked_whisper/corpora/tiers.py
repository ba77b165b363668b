"""Turn the rows of an alignment file into intervals: check times, unify silence, rename labels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

ROUNDING_S = 0.01  # allowed overlap: files round starts and durations separately, to two or more decimals
TEXT_SOURCE = "text_source"  # in ``Alignment.extra``: the model that transcribed the text
ORIGIN = "origin"  # in ``Alignment.extra``: where a TextGrid begins, in seconds, if not at 0
_NOISE_S = 1e-9  # rounding error of sums of such decimals
# Aligners' names for silence. MFA's "spn" is speech in unknown words, not silence.
_SILENT_PHONES = frozenset(["", "sil", "sp", "pau", "epi", "h#", "<eps>", "<sil>"])  # case is ignored
_SILENT_WORDS = frozenset(["", "sil", "SIL", "sp", "SP", "h#", "<eps>", "<sil>"])
_STRESS = re.compile(r"(?<=[A-Za-z])[012]$")


@dataclass(frozen=True)
class Tiers:
    """How to read alignment files.

    Attributes:
        words, phones: names of the tiers in a TextGrid. Case is ignored, and so is a speaker's name before it
            (``"ann - words"``, as MFA writes it).
        relabel: renames phones, such as :func:`without_stress` or :func:`~hooked_whisper.corpora.fold_timit`; then
            names of silence become ``"SIL"``.
    """

    words: str = "words"
    phones: str = "phones"
    relabel: Callable[[str], str] | None = None


USUAL = Tiers()


@dataclass(frozen=True, slots=True)
class Row:
    """An unchecked interval of a file, in seconds. where: its location for error messages, such as ``"line 3"``."""

    start: float
    end: float
    label: str
    where: str


def without_stress(label: str) -> str:
    """Remove the stress digit of an ARPABET label: ``"AH0" -> "AH"``."""
    return _STRESS.sub("", label)


def make_alignment(
    words: Iterable[Row],
    phones: Iterable[Row],
    source: str,
    *,
    utterance: str = "",
    speaker: str = "",
    text: str = "",
    duration: float = 0.0,
    tiers: Tiers = USUAL,
    shared_s: float = ROUNDING_S,
) -> Alignment:
    """Make an alignment from the rows of a file.

    Silent words are dropped, and gaps of more than 10 ms between phones are filled with silence. The default text is
    the words; the duration is at least the end of the last row.

    Args:
        source: name of the file, for error messages.
        shared_s: overlap of two intervals that is allowed; the first then ends where the second starts.

    Raises:
        AlignmentError: times are NaN, infinite or negative, an end is before its start, or rows overlap or are out of
            order.
    """
    word_tier = tuple(i for i in _ordered(words, source, shared_s) if i.label not in _SILENT_WORDS)
    phone_tier = _ordered(phones, source, shared_s)
    named = [_renamed(phone, tiers.relabel) for phone in phone_tier]
    if word_tier and all(phone.label == SILENCE for phone in named):
        named = []  # an empty tier beside words: the phones are unknown, not silent
    duration = max([duration, *(tier[-1].end for tier in (word_tier, phone_tier) if tier)])
    return Alignment(
        utterance,
        speaker,
        text or " ".join(word.label for word in word_tier),
        float(duration),
        word_tier,
        _with_silence(named, duration),
    )


def merged(first: Alignment, second: Alignment) -> Alignment:
    """Merge two alignments of one recording; words and phones come from ``first`` where it has them."""
    return Alignment(
        first.utterance or second.utterance,
        first.speaker or second.speaker,
        first.text or second.text,
        max(first.duration, second.duration),
        first.words or second.words,
        first.phones or second.phones,
        {**second.extra, **first.extra},
    )


def cut(alignment: Alignment, start: float, end: float) -> Alignment:
    """Return the part of an alignment between two times (seconds), with times from ``start``.

    Words are included if their middle is; phones are cut at the edges.
    """

    def clipped(interval: Interval) -> Interval:
        return Interval(max(interval.start, start) - start, min(interval.end, end) - start, interval.label)

    words = tuple(clipped(w) for w in alignment.words if start <= (w.start + w.end) / 2 < end)
    phones = tuple(clipped(p) for p in alignment.phones if p.start < end and p.end > start)
    text = " ".join(word.label for word in words)
    return Alignment(
        alignment.utterance, alignment.speaker, text, max(0.0, end - start), words, phones, alignment.extra
    )


def _ordered(rows: Iterable[Row], source: str, shared_s: float) -> list[Interval]:
    intervals: list[Interval] = []
    for row in rows:
        if not 0 <= row.start <= row.end < math.inf:  # False for NaN too
            raise AlignmentError(
                f"{source}, {row.where}: {row.label!r} is from {row.start:g} to {row.end:g} s: times must be numbers, "
                "not negative, the end not before the start"
            )
        if intervals and row.start < intervals[-1].end:
            last = intervals[-1]
            if row.start < last.start:
                raise AlignmentError(
                    f"{source}, {row.where}: {row.label!r} starts at {row.start:g} s, before {last.label!r} at "
                    f"{last.start:g} s: sort the rows by time"
                )
            if last.end - row.start > shared_s + _NOISE_S:
                raise AlignmentError(
                    f"{source}, {row.where}: {row.label!r} starts at {row.start:g} s, where {last.label!r} lasts until "
                    f"{last.end:g} s: intervals of one tier must not overlap"
                )
            intervals[-1] = Interval(last.start, row.start, last.label)
        intervals.append(Interval(float(row.start), float(row.end), row.label.strip()))
    return intervals


def _renamed(phone: Interval, relabel: Callable[[str], str] | None) -> Interval:
    label = phone.label if relabel is None or phone.label == SILENCE else relabel(phone.label)
    return Interval(phone.start, phone.end, SILENCE if label.lower() in _SILENT_PHONES else label)


def _with_silence(phones: list[Interval], duration: float) -> tuple[Interval, ...]:
    if not phones:
        return ()
    filled: list[Interval] = []
    end = 0.0
    for phone in [*phones, Interval(duration, duration, "")]:
        if phone.start - end > ROUNDING_S + _NOISE_S:
            filled.append(Interval(end, phone.start, SILENCE))
        filled.append(phone)
        end = phone.end
    return tuple(filled[:-1])
