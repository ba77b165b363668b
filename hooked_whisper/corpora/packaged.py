"""The packaged speech: neural voices with text, words and phones, for released Whisper models. It needs no extra.

:mod:`hooked_whisper.neural` synthesized it; see ``docs/howto/packaged_speech.md`` for its uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from hooked_whisper._support.storage import AnyPath
from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError, check_option, closest
from hooked_whisper.protocols import Alignment, Interval

FOLDER = Path(__file__).parents[1] / "packaged_speech"
LIST = "utterances.jsonl"
NAME = "packaged"  # accepted instead of a path, alone or with kinds: "packaged:prose,window"
SpeechKind = Literal["prose", "pair", "conflict", "semantic", "fragment", "window", "foreign"]
SplitName = Literal["train", "held-out"]
PhonePosition = Literal["onset", "vowel", "coda"]
KINDS: tuple[SpeechKind, ...] = get_args(SpeechKind)
LANGUAGES = ("en", "es", "fr", "it", "pt")
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

_FIELDS = ("id", "path", "speaker", "text", "kind", "language", "split")
_Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class MinimalPair:
    """Two recordings by one voice that differ in one phone of one word; tiny.en and base transcribe both correctly.

    Attributes:
        position: of the phone in its syllable: ``"onset"``, ``"vowel"`` or ``"coda"``.
        words: the word of ``a``, then the word of ``b``.
        phones: the two phones that differ.
        word_times: the interval of each word in its recording, in seconds.
        phone_times: the interval of each phone in its recording.
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
    """One context by one voice with two last words: the expected one and another.

    Attributes:
        context: the sentence without its last word.
        words: the last word of ``expected``, then that of ``other``.
        word_times: the interval of the last word in each recording, in seconds.
    """

    id: str
    context: str
    expected: Recording
    other: Recording
    words: tuple[str, str]
    word_times: tuple[Interval, Interval]


@dataclass(frozen=True, eq=False)
class SemanticWord:
    """A word of a semantic class in a carrier sentence. time: its interval in the recording, in seconds."""

    recording: Recording
    word: str
    semantic_class: str
    time: Interval


def packaged_speech(
    kind: SpeechKind | Sequence[SpeechKind] | None = None,
    *,
    language: str | None = None,
    split: SplitName | None = None,
    voices: Sequence[str] | None = None,
) -> list[Recording]:
    """Return recordings of the packaged speech, with text, voice, words and phones.

    Args:
        kind: one or several of ``prose`` (rich in phones), ``pair``, ``conflict``, ``semantic``, ``fragment`` (words
            and short phrases), ``window`` (25 to 29 s), all in English, and ``foreign``. Default: all.
        language: ``en``, ``es``, ``fr``, ``it`` or ``pt``. Default: all.
        split: ``train`` and ``held-out`` share no voice and no sentence. Default: both.
        voices: names of voices, such as ``["af_heart"]``. Default: all.

    Raises:
        AudioError: a kind, language, split or voice is unknown, or no recording meets all conditions.
    """
    rows = _selected(_rows(FOLDER), kind, language, split, voices)
    return [_recording(row, FOLDER) for row in rows]


def read_packaged(folder: AnyPath, kinds: Sequence[str] | None = None) -> list[Recording]:
    """Return the recordings of a folder of packaged speech: ``utterances.jsonl`` and the files that it lists.

    Raises:
        AudioError: the list is missing, a line is not JSON or lacks a field, or no recording has one of the kinds.
    """
    return [_recording(row, folder) for row in _selected(_rows(folder), kinds, None, None, None)]


def is_reserved(name: str) -> bool:
    """Whether ``name`` is ``"packaged"`` or ``"packaged:KIND,KIND"``."""
    return name.partition(":")[0] == NAME


def from_name(name: str) -> list[Recording]:
    """Return the recordings of ``"packaged"`` or ``"packaged:prose,window"``. Languages are allowed instead of kinds.

    Raises:
        AudioError: as :func:`packaged_speech`.
    """
    names = [part.strip() for part in name.partition(":")[2].split(",") if part.strip()]
    if not names:
        return packaged_speech()
    if all(part in LANGUAGES for part in names):
        return [recording for part in names for recording in packaged_speech(language=part)]
    return read_packaged(FOLDER, names)


def minimal_pairs(position: PhonePosition | None = None) -> list[MinimalPair]:
    """Return the minimal pairs, sorted by id. position: where the phones differ; default: anywhere.

    Raises:
        AudioError: ``position`` is unknown.
    """
    if position is not None:
        check_option("position", position, get_args(PhonePosition), AudioError)
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
    """Return the contexts with the expected last word and with another one."""
    pairs = []
    for name, (expected, other) in _by_pair("conflict", "expected", "other").items():
        words = (expected["word"], other["word"])
        context = expected["text"].rstrip(".").removesuffix(words[0]).rstrip()
        times = (_last_named(expected, words[0]), _last_named(other, words[1]))
        recordings = (_recording(expected, FOLDER), _recording(other, FOLDER))
        pairs.append(ConflictPair(name, context, *recordings, words, times))
    return pairs


def semantic_words() -> list[SemanticWord]:
    """Return words of eight semantic classes in various carrier sentences."""
    rows = _selected(_rows(FOLDER), "semantic", None, None, None)
    return [
        SemanticWord(_recording(row, FOLDER), row["word"], row["class"], _last_named(row, row["word"])) for row in rows
    ]


def speech_metadata() -> dict[str, Any]:
    """Return how the packaged speech was made and what was measured on it (``metadata.json``)."""
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
                f"{str(path)!r}, line {number}, has no {missing[0]!r}: this is not packaged speech, open the "
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
        check_option("kind", name, KINDS, AudioError)
    if language is not None:
        check_option("language", language, LANGUAGES, AudioError)
    if split is not None:
        check_option("split", split, SPLITS, AudioError)
    voices = [voices] if isinstance(voices, str) else voices
    speakers = list(dict.fromkeys(row["speaker"] for row in rows))
    for name in voices or ():
        _check_voice(name, speakers)
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


def _check_voice(name: str, speakers: Sequence[str]) -> None:
    if name in speakers:
        return
    near = closest(name, speakers)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(speakers)}"
    raise AudioError(f"the packaged speech has no voice {name!r}: {hint}")


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
    """Return the last interval with this word, ignoring case."""
    return next(Interval(*times) for times in reversed(row["words"]) if times[2].lower() == word.lower())


def _differing(rows: tuple[_Row, _Row], words: tuple[Interval, Interval]) -> tuple[Interval, Interval]:
    """Return the first phone of each word that differs between the two."""
    a, b = (
        [Interval(*times) for times in row["phones"] if word.start <= times[0] < word.end]
        for row, word in zip(rows, words, strict=True)
    )
    index = next(k for k, (left, right) in enumerate(zip(a, b, strict=False)) if left.label != right.label)
    return a[index], b[index]
