"""From the rows of an alignment file to intervals: times checked, silence under one name, labels renamed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

ROUNDING_S = 0.01  # files round starts and durations apart, to two decimals or more: overlaps up to this are no mistake
TEXT_SOURCE = "text_source"  # in ``Alignment.extra``: the model whose own transcript the text is
ORIGIN = "origin"  # in ``Alignment.extra``: where a TextGrid begins, in seconds, if not at 0
_NOISE_S = 1e-9  # of sums of such decimals
# Aligners' names for nothing being said. MFA's "spn" is not one: somebody speaks there, in words unknown to it.
_SILENT_PHONES = frozenset(["", "sil", "sp", "pau", "epi", "h#", "<eps>", "<sil>"])  # whatever their case
_SILENT_WORDS = frozenset(["", "sil", "SIL", "sp", "SP", "h#", "<eps>", "<sil>"])
_STRESS = re.compile(r"(?<=[A-Za-z])[012]$")


@dataclass(frozen=True)
class Tiers:
    """How alignment files are read.

    Attributes:
        words, phones: names of the tiers in a TextGrid. Case does not matter, nor does a speaker's name before it
            (``"ann - words"``, as MFA has it).
        relabel: new name for a phone, such as :func:`without_stress` or :func:`~hooked_whisper.corpora.fold_timit`;
            names of silence become ``"SIL"`` after it.
    """

    words: str = "words"
    phones: str = "phones"
    relabel: Callable[[str], str] | None = None


USUAL = Tiers()


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled time of a file, unchecked, in seconds; ``where`` it stands, for errors (``"line 3"``)."""

    start: float
    end: float
    label: str
    where: str


def without_stress(label: str) -> str:
    """ARPABET without its stress digit: ``"AH0" -> "AH"``."""
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
    """The rows of a file as an alignment.

    Words of silence are dropped. Where phones leave more than 10 ms out, silence is filled in, if there are phones.
    The text is that of the words if none is given; the duration is at least the end of the last row.

    Args:
        source: the file, for errors.
        shared_s: longest overlap that is no mistake: of such two intervals the first ends where the second starts.

    Raises:
        AlignmentError: NaN, infinite or negative times, an end before its start, rows that overlap or are unordered.
    """
    word_tier = tuple(i for i in _ordered(words, source, shared_s) if i.label not in _SILENT_WORDS)
    phone_tier = _ordered(phones, source, shared_s)
    named = [_renamed(phone, tiers.relabel) for phone in phone_tier]
    if word_tier and all(phone.label == SILENCE for phone in named):
        named = []  # an empty tier: words are said, so their phones are unknown, not silent
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
    """Words of one file and phones of another, of one recording: the first's, where it has them."""
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
    """What is said between two times of a recording, as if it were one of its own (times in seconds).

    A word belongs to it if its middle does; phones at the edges are cut.
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
    found: list[Interval] = []
    for row in rows:
        if not 0 <= row.start <= row.end < math.inf:  # False for NaN too
            raise AlignmentError(
                f"{source}, {row.where}: {row.label!r} is from {row.start:g} to {row.end:g} s: times must be numbers, "
                "not negative, the end not before the start"
            )
        if found and row.start < found[-1].end:
            last = found[-1]
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
            found[-1] = Interval(last.start, row.start, last.label)
        found.append(Interval(float(row.start), float(row.end), row.label.strip()))
    return found


def _renamed(phone: Interval, relabel: Callable[[str], str] | None) -> Interval:
    label = phone.label if relabel is None or phone.label == SILENCE else relabel(phone.label)
    return Interval(phone.start, phone.end, SILENCE if label.lower() in _SILENT_PHONES else label)


def _with_silence(phones: list[Interval], duration: float) -> tuple[Interval, ...]:
    if not phones:
        return ()
    filled: list[Interval] = []
    at = 0.0
    for phone in [*phones, Interval(duration, duration, "")]:
        if phone.start - at > ROUNDING_S + _NOISE_S:
            filled.append(Interval(at, phone.start, SILENCE))
        filled.append(phone)
        at = phone.end
    return tuple(filled[:-1])
