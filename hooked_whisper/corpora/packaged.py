"""The packaged speech: neural voices with text, words and phones, made for real Whisper. No extra is needed to use it.

:mod:`hooked_whisper.neural` made it, and says how; ``docs/howto/packaged_speech.md`` says what it is good for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from hooked_whisper._support.storage import AnyPath
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError, closest
from hooked_whisper.protocols import Alignment, Interval

FOLDER = Path(__file__).parents[1] / "packaged_speech"
LIST = "utterances.jsonl"
NAME = "packaged"  # in place of a path, alone or with kinds: "packaged:prose,window"
KINDS = ("prose", "pair", "conflict", "semantic", "fragment", "window", "foreign")
LANGUAGES = ("en", "es", "fr", "it", "pt")
SPLITS = ("train", "held-out")

_FIELDS = ("id", "path", "speaker", "text", "kind", "language", "split")
_Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class MinimalPair:
    """Two recordings by one voice that differ in one phone of one word; tiny.en and base hear both words right.

    Attributes:
        position: of the phone: ``"onset"``, ``"vowel"`` or ``"coda"``.
        words: the two words, that of ``a`` first.
        phones: the two phones that differ.
        word_times: where each word is in its recording, in seconds.
        phone_times: the same for the phone.
    """

    id: str
    position: str
    a: Recording
    b: Recording
    words: tuple[str, str]
    phones: tuple[str, str]
    word_times: tuple[Interval, Interval]
    phone_times: tuple[Interval, Interval]


@dataclass(frozen=True, eq=False)
class ConflictPair:
    """One context by one voice with two last words: the one it calls for, and another.

    Attributes:
        context: the sentence without its last word.
        words: the last words, that of ``expected`` first.
        word_times: where the last word is in each recording, in seconds.
    """

    id: str
    context: str
    expected: Recording
    other: Recording
    words: tuple[str, str]
    word_times: tuple[Interval, Interval]


@dataclass(frozen=True, eq=False)
class SemanticWord:
    """A word of a semantic class in a frame, and where it is in the recording (seconds)."""

    recording: Recording
    word: str
    semantic_class: str
    time: Interval


def packaged_speech(
    kind: str | Sequence[str] | None = None,
    *,
    language: str | None = None,
    split: str | None = None,
    voices: Sequence[str] | None = None,
) -> list[Recording]:
    """Recordings of the packaged speech with text, voice, and words and phones in seconds; audio is read when asked.

    Args:
        kind: one or several of ``prose`` (rich in phones), ``pair``, ``conflict``, ``semantic``, ``fragment`` (words
            and short phrases), ``window`` (25 to 29 s), all of them English, and ``foreign``. All if not given.
        language: ``en``, ``es``, ``fr``, ``it`` or ``pt``. All if not given.
        split: ``"train"`` or ``"held-out"``; voices and sentences of the two are disjoint.
        voices: names of voices, such as ``["af_heart"]``.

    Raises:
        AudioError: an unknown kind, language, split or voice, or no recording that fits all of them.
    """
    rows = _selected(_rows(FOLDER), kind, language, split, voices)
    return [_recording(row, FOLDER) for row in rows]


def read_packaged(folder: AnyPath, kinds: Sequence[str] | None = None) -> list[Recording]:
    """Recordings of a folder that holds packaged speech: an ``utterances.jsonl``, and the files that it names.

    Raises:
        AudioError: no such list, a line that is not JSON or lacks a field, or no recording of these kinds.
    """
    return [_recording(row, folder) for row in _selected(_rows(folder), kinds, None, None, None)]


def is_reserved(name: str) -> bool:
    """Whether ``name`` is ``"packaged"`` or ``"packaged:KIND,KIND"``, which stand for the packaged speech."""
    return name.partition(":")[0] == NAME


def from_name(name: str) -> list[Recording]:
    """Recordings of ``"packaged"``, ``"packaged:prose"``, ``"packaged:prose,window"``. Kinds may be languages, too.

    Raises:
        AudioError: as :func:`packaged_speech`.
    """
    names = [part.strip() for part in name.partition(":")[2].split(",") if part.strip()]
    if not names:
        return packaged_speech()
    if all(part in LANGUAGES for part in names):
        return [recording for part in names for recording in packaged_speech(language=part)]
    return packaged_speech(names)


def minimal_pairs(position: str | None = None) -> list[MinimalPair]:
    """The minimal pairs, in the order of their ids; ``position`` is ``onset``, ``vowel``, ``coda``, or all.

    Raises:
        AudioError: another position.
    """
    _check("position", position, ("onset", "vowel", "coda"))
    pairs = []
    for name, (a, b) in _by_pair("pair", "a", "b").items():
        if position not in (None, a["position"]):
            continue
        words = (_last_named(a, a["word"]), _last_named(b, b["word"]))
        pairs.append(
            MinimalPair(
                name,
                a["position"],
                _recording(a, FOLDER),
                _recording(b, FOLDER),
                (a["word"], b["word"]),
                (a["phone"], b["phone"]),
                words,
                _differing((a, b), words),
            )
        )
    return pairs


def conflict_pairs() -> list[ConflictPair]:
    """Contexts with the expected last word and with another one."""
    pairs = []
    for name, (expected, other) in _by_pair("conflict", "expected", "other").items():
        words = (expected["word"], other["word"])
        context = expected["text"].rstrip(".").removesuffix(words[0]).rstrip()
        times = (_last_named(expected, words[0]), _last_named(other, words[1]))
        recordings = (_recording(expected, FOLDER), _recording(other, FOLDER))
        pairs.append(ConflictPair(name, context, *recordings, words, times))
    return pairs


def semantic_words() -> list[SemanticWord]:
    """Words of eight semantic classes in varied frames."""
    rows = _selected(_rows(FOLDER), "semantic", None, None, None)
    return [
        SemanticWord(_recording(row, FOLDER), row["word"], row["class"], _last_named(row, row["word"])) for row in rows
    ]


def speech_metadata() -> dict[str, Any]:
    """How the packaged speech was made and what was measured on it (``metadata.json``)."""
    return json.loads((FOLDER / "metadata.json").read_text("utf-8"))


@cache
def _rows(folder: AnyPath) -> tuple[_Row, ...]:
    path = folder / LIST
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"{str(path)!r} cannot be read ({error}): packaged speech needs this list") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            missing = [field for field in _FIELDS if field not in row]
        except (json.JSONDecodeError, TypeError, RecursionError) as error:
            raise AudioError(f"{str(path)!r}, line {number}, is not JSON: {error}") from error
        if missing:
            raise AudioError(
                f"{str(path)!r}, line {number}, has no {missing[0]!r}: it is no packaged speech, open its "
                "folder with layout='folder'"
            )
        rows.append(row)
    return tuple(rows)


@cache
def _rows_by_id(folder: AnyPath) -> dict[str, _Row]:
    return {row["id"]: row for row in _rows(folder)}


def _selected(
    rows: Iterable[_Row],
    kind: str | Sequence[str] | None,
    language: str | None,
    split: str | None,
    voices: Sequence[str] | None,
) -> list[_Row]:
    rows = list(rows)
    kinds = [kind] if isinstance(kind, str) else kind
    for name in kinds or ():
        _check("kind", name, KINDS)
    _check("language", language, LANGUAGES)
    _check("split", split, SPLITS)
    voices = [voices] if isinstance(voices, str) else voices
    speakers = list(dict.fromkeys(row["speaker"] for row in rows))
    for name in voices or ():
        _check("voice", name, speakers)
    selected = [
        row
        for row in rows
        if (kinds is None or row["kind"] in kinds)
        and language in (None, row["language"])
        and split in (None, row["split"])
        and (voices is None or row["speaker"] in voices)
    ]
    if not selected:
        wanted = {"kind": kinds, "language": language, "split": split, "voices": voices}
        conditions = ", ".join(f"{name}={value!r}" for name, value in wanted.items() if value is not None)
        raise AudioError(f"the packaged speech has no recording with {conditions}: drop one of these conditions")
    return selected


def _check(what: str, name: str | None, names: Sequence[str]) -> None:
    if name is None or name in names:
        return
    near = closest(name, names)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}"
    raise AudioError(f"the packaged speech has no {what} {name!r}: {hint}")


def _recording(row: _Row, folder: AnyPath) -> Recording:
    path = folder / row["path"]
    find = partial(_alignment, folder, row["id"]) if "phones" in row else None
    return Recording(row["id"], path, str(path), row["speaker"], row["text"], find, language=row["language"])


def _alignment(folder: AnyPath, name: str) -> Alignment:
    row = _rows_by_id(folder)[name]
    words, phones = (tuple(Interval(*interval) for interval in row[tier]) for tier in ("words", "phones"))
    extra = {name: row[name] for name in ("kind", "language", "split")}
    return Alignment(row["id"], row["speaker"], row["text"], row["duration"], words, phones, extra)


def _by_pair(kind: str, first: str, second: str) -> dict[str, tuple[_Row, _Row]]:
    sides: dict[str, dict[str, _Row]] = {}
    for row in _selected(_rows(FOLDER), kind, None, None, None):
        sides.setdefault(row["pair"], {})[row["side"]] = row
    return {name: (rows[first], rows[second]) for name, rows in sides.items()}


def _last_named(row: _Row, word: str) -> Interval:
    """The last interval of a recording's words that has this label, whatever its case."""
    return next(Interval(*times) for times in reversed(row["words"]) if times[2].lower() == word.lower())


def _differing(rows: tuple[_Row, _Row], words: tuple[Interval, Interval]) -> tuple[Interval, Interval]:
    """The phones in which two words differ: the first such position."""
    a, b = (
        [Interval(*times) for times in row["phones"] if word.start <= times[0] < word.end]
        for row, word in zip(rows, words, strict=True)
    )
    index = next(k for k, (left, right) in enumerate(zip(a, b, strict=False)) if left.label != right.label)
    return a[index], b[index]
