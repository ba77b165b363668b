"""Alignments as JSON: our form, segments of WhisperX and openai-whisper, and lists of labels with times."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hooked_whisper.corpora.tiers import USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Alignment, Interval

_FORMS = (
    "ours (to_dict), {'segments': [{'words': [{'word', 'start', 'end'}]}]} as WhisperX writes it, {'words': [...], "
    "'phones': [...]}, or a list of {'label', 'start', 'end', 'tier'}"
)
_LABELS = {"words": ("word", "label", "text"), "phones": ("phone", "label", "text")}


def to_dict(alignment: Alignment) -> dict[str, Any]:
    """Convert an alignment to a JSON-ready dictionary; times in seconds, rounded to microseconds."""

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


def to_json(alignment: Alignment) -> str:
    """Write an alignment as JSON, which :func:`from_json` reads."""
    return json.dumps(to_dict(alignment), ensure_ascii=False) + "\n"


def from_dict(data: dict[str, Any]) -> Alignment:
    """Read an alignment from a dictionary that :func:`to_dict` returned."""
    return Alignment(
        data["utterance"],
        data["speaker"],
        data["text"],
        float(data["duration"]),
        tuple(Interval(float(a), float(b), label) for a, b, label in data["words"]),
        tuple(Interval(float(a), float(b), label) for a, b, label in data["phones"]),
        dict(data.get("extra", {})),
    )


def from_json(
    content: str, utterance: str = "", speaker: str = "", tiers: Tiers = USUAL, source: str = "JSON"
) -> Alignment:
    """Read an alignment in any of the module's forms.

    Words without times, which WhisperX could not place, are kept in the text only, with a warning.

    Raises:
        AlignmentError: the content is not JSON or has another form, or times are impossible or out of order; the
            message names the line or entry.
    """
    try:
        data = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AlignmentError(f"{source} is not JSON: {error}") from error
    text, duration, extra = "", 0.0, {}
    if isinstance(data, list):
        entries = list(enumerate(data))
        words = _rows([(f"[{k}]", entry) for k, entry in entries if _tier_of(entry) == "words"], "words", source)
        phones = _rows([(f"[{k}]", entry) for k, entry in entries if _tier_of(entry) == "phones"], "phones", source)
    elif isinstance(data, dict) and isinstance(data.get("segments"), list):
        segments = [s if isinstance(s, Mapping) else {} for s in data["segments"]]
        numbered = [
            (f"segments[{i}].words[{k}]", entry)
            for i, s in enumerate(segments)
            for k, entry in enumerate(_list(s, "words"))
        ]
        if segments and not any("words" in s for s in segments):
            raise AlignmentError(
                f"{source}: its segments have no words with times: align or transcribe with word times"
            )
        words, phones = _rows(numbered, "words", source), []
        text = " ".join(str(s.get("text", "")).strip() for s in segments).strip()
    elif isinstance(data, dict) and ("words" in data or "phones" in data):
        words, phones = (
            _rows([(f"{tier}[{k}]", entry) for k, entry in enumerate(_list(data, tier))], tier, source)
            for tier in ("words", "phones")
        )
        text, duration = str(data.get("text") or ""), _number(data.get("duration", 0.0), source, "duration")
        utterance, speaker = (str(data.get("utterance") or utterance), str(data.get("speaker") or speaker))
        notes = data.get("extra")
        extra = {str(key): str(note) for key, note in notes.items()} if isinstance(notes, Mapping) else {}
    else:
        raise AlignmentError(f"{source} has none of the known forms: {_FORMS}")
    alignment = make_alignment(
        words, phones, source, utterance=utterance, speaker=speaker, text=text, duration=duration, tiers=tiers
    )
    return replace(alignment, extra=extra) if extra else alignment


def _tier_of(entry: Any) -> str:
    """Return the tier of an entry, by default ``words``."""
    if not isinstance(entry, Mapping):
        return "words"  # refused later
    return "phones" if str(entry.get("tier", "")).lower().startswith("phon") or "phone" in entry else "words"


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _rows(entries: Iterable[tuple[str, Any]], tier: str, source: str) -> list[Row]:
    rows, untimed = [], []
    for where, entry in entries:
        if isinstance(entry, list | tuple) and len(entry) == 3:
            start, end, label = entry
        elif isinstance(entry, Mapping):
            label = next((entry[name] for name in _LABELS[tier] if name in entry), None)
            start, end = entry.get("start"), entry.get("end")
            if label is not None and start is None and end is None:
                untimed.append(str(label))
                continue
        else:
            raise AlignmentError(f"{source}, {where}: expected {{'label', 'start', 'end'}}, got {entry!r:.80}")
        if not isinstance(label, str):
            raise AlignmentError(f"{source}, {where}: no label: give one of {', '.join(_LABELS[tier])}")
        rows.append(Row(_number(start, source, where), _number(end, source, where), label, where))
    if untimed:
        shown = ", ".join(map(repr, untimed[:5])) + (", ..." if len(untimed) > 5 else "")
        warnings.warn(
            f"{source}: {len(untimed)} of {len(untimed) + len(rows)} {tier} have no times ({shown}): they stay in the "
            "text only. `hooked-whisper align` finds times for all words",
            stacklevel=4,
        )
    return rows


def _number(value: Any, source: str, where: str) -> float:
    # compared before the conversion: a JSON integer may be too large for a float
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise AlignmentError(f"{source}, {where}: times are seconds, numbers from 0, got {value!s:.40}")
    return float(value)
