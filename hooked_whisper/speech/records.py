"""Alignments on disk: JSON lines and Praat TextGrid."""

from __future__ import annotations

import re
from typing import Any

from hooked_whisper.protocols import SILENCE, Alignment, Interval


def to_dict(alignment: Alignment) -> dict[str, Any]:
    """JSON-ready form; times in seconds, microsecond precision."""

    def rows(intervals: tuple[Interval, ...]) -> list[list[Any]]:
        return [[round(i.start, 6), round(i.end, 6), i.label] for i in intervals]

    return {
        "utterance": alignment.utterance,
        "speaker": alignment.speaker,
        "text": alignment.text,
        "duration": round(alignment.duration, 6),
        "words": rows(alignment.words),
        "phones": rows(alignment.phones),
        "extra": alignment.extra,
    }


def from_dict(data: dict[str, Any]) -> Alignment:
    """Inverse of :func:`to_dict`."""
    return Alignment(
        data["utterance"],
        data["speaker"],
        data["text"],
        float(data["duration"]),
        tuple(Interval(float(a), float(b), label) for a, b, label in data["words"]),
        tuple(Interval(float(a), float(b), label) for a, b, label in data["phones"]),
        dict(data.get("extra", {})),
    )


def _tier(number: int, name: str, intervals: tuple[Interval, ...], duration: float, silence: str) -> list[str]:
    filled: list[tuple[float, float, str]] = []
    at = 0.0
    for interval in intervals:
        if interval.start > at:
            filled.append((at, interval.start, ""))
        filled.append((interval.start, interval.end, "" if interval.label == silence else interval.label))
        at = interval.end
    if at < duration or not filled:
        filled.append((at, duration, ""))
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


def to_textgrid(alignment: Alignment) -> str:
    """Praat's long text format with the tiers ``words`` and ``phones``; silence is the empty label."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {alignment.duration!r}",
        "tiers? <exists>",
        "size = 2",
        "item []:",
        *_tier(1, "words", alignment.words, alignment.duration, SILENCE),
        *_tier(2, "phones", alignment.phones, alignment.duration, SILENCE),
    ]
    return "\n".join(lines) + "\n"


# A quoted string (Praat doubles inner quotes), a number, or <exists>; the words around them carry no data.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])')


def from_textgrid(
    content: str, utterance: str = "", speaker: str = "", words: str = "words", phones: str = "phones"
) -> Alignment:
    """Read a TextGrid in long or short text format. Point tiers and other interval tiers are skipped."""
    if "TextGrid" not in content[:200]:
        raise ValueError("not a TextGrid: the header names no such object")
    content = content.replace("\r\n", "\n")
    values: list[str | float] = [
        float(m.group(2)) if m.group(2) is not None else m.group(1).replace('""', '"') for m in _VALUE.finditer(content)
    ]
    stream = iter(values[2:])  # the two header strings

    def number() -> float:
        value = next(stream)
        if not isinstance(value, float):
            raise ValueError(f"TextGrid: expected a number, found {value!r}")
        return value

    tiers: dict[str, tuple[Interval, ...]] = {}
    try:
        number()
        duration = number()
        for _ in range(int(number())):
            kind, name = next(stream), str(next(stream))
            number(), number()
            count = int(number())
            if kind == "IntervalTier":
                tiers[name] = tuple(Interval(number(), number(), str(next(stream))) for _ in range(count))
            else:
                for _ in range(count):
                    number(), next(stream)
    except StopIteration:
        raise ValueError("TextGrid ends early") from None
    word_tier = tuple(i for i in tiers.get(words, ()) if i.label)
    phone_tier = tuple(i if i.label else Interval(i.start, i.end, SILENCE) for i in tiers.get(phones, ()))
    text = " ".join(i.label for i in word_tier)
    return Alignment(utterance, speaker, text, duration, word_tier, phone_tier)
