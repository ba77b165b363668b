"""The planned recordings: the sentences of ``texts/``, each with a voice.

Voices take turns by the number of the row, so adding or removing a row changes little else. ``choices.tsv`` has the
exceptions from :mod:`hooked_whisper.neural.choose`: another voice for a sentence that Whisper misheard, or no
recording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from hooked_whisper.errors import AudioError
from hooked_whisper.neural.tables import FOLDER, TEXTS, Voice, read_table, voice_table

CLEAREST = ("af_heart", "am_michael", "af_bella", "am_fenrir")  # for pairs of words
FOREIGN = ("es", "fr", "it", "pt")
CHOICES = FOLDER / "choices.tsv"


@dataclass(frozen=True)
class Planned:
    """One planned recording.

    Attributes:
        texts: its sentences: several for a window, otherwise one.
        split: split of the voice, ``"train"`` or ``"held-out"``.
        about: other columns of its table, such as the words of a pair or the class of a word.
    """

    id: str
    kind: str
    language: str
    voice: str
    split: str
    texts: tuple[str, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@dataclass(frozen=True)
class Choice:
    """An exception: ``voice`` speaks this recording, or it is dropped if ``voice`` is empty. ``reason`` is a note."""

    id: str
    voice: str
    reason: str


def read_choices() -> dict[str, Choice]:
    """Return the exceptions of ``choices.tsv`` by recording; empty if the file does not exist."""
    if not CHOICES.is_file():
        return {}
    return {row["id"]: Choice(row["id"], row["voice"], row["reason"]) for row in read_table(CHOICES)}


def make_plan(choices: Mapping[str, Choice] | None = None) -> list[Planned]:
    """Return all planned recordings, prose first.

    Args:
        choices: exceptions from the plan, ``{}`` for none. Default: those of ``choices.tsv``.

    Raises:
        CheckpointError: a table is missing or broken.
        AudioError: two recordings have the same id, or a choice names an unknown voice.
    """
    choices = read_choices() if choices is None else choices
    plan = [
        planned
        for planned in (*_prose(), *_pairs(), *_conflicts(), *_semantic(), *_fragments(), *_foreign(), *_windows())
    ]
    ids = [planned.id for planned in plan]
    if len(ids) != len(set(ids)):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise AudioError(f"two recordings have the id {twice!r}: ids in texts/ must be unique")
    return [
        _with_choice(planned, choices[planned.id]) if planned.id in choices else planned
        for planned in plan
        if planned.id not in choices or choices[planned.id].voice
    ]


def voices_for(kind: str, language: str, split: str | None = None) -> list[Voice]:
    """Return the voices for recordings of a kind: the clearest for pairs, otherwise all of the language and split."""
    voices = [voice for voice in voice_table() if voice.language == language and split in (None, voice.split)]
    return [voice for voice in voices if voice.name in CLEAREST] if kind in ("pair", "conflict") else voices


def _with_choice(planned: Planned, choice: Choice) -> Planned:
    voice = next((voice for voice in voice_table() if voice.name == choice.voice), None)
    if voice is None:
        raise AudioError(f"choices.tsv gives {planned.id!r} the voice {choice.voice!r}, which voices.tsv does not list")
    return replace(planned, voice=voice.name, split=voice.split)


def _turn(number: int, kind: str, language: str = "en", split: str | None = None) -> partial[Planned]:
    voices = voices_for(kind, language, split)
    voice = voices[number % len(voices)]
    return partial(Planned, kind=kind, language=language, voice=voice.name, split=voice.split)


def _prose() -> Iterator[Planned]:
    numbers = {"train": 0, "held-out": 0}
    for row in read_table(TEXTS / "prose.tsv"):
        number, numbers[row["split"]] = numbers[row["split"]], numbers[row["split"]] + 1
        yield _turn(number, "prose", split=row["split"])(row["id"], texts=(row["text"],))


def _pairs() -> Iterator[Planned]:
    for number, row in enumerate(read_table(TEXTS / "pairs.tsv")):
        for side in "ab":
            word = row[f"word_{side}"]
            about = {"pair": row["id"], "side": side, "position": row["position"], "word": word}
            about["phone"] = row[f"phone_{side}"]
            yield _turn(number, "pair")(f"{row['id']}-{side}", texts=(row["frame"].replace("_", word),), about=about)


def _conflicts() -> Iterator[Planned]:
    for number, row in enumerate(read_table(TEXTS / "conflict.tsv")):
        for side in ("expected", "other"):
            about = {"pair": row["id"], "side": side, "word": row[side]}
            text = f"{row['context']} {row[side]}."
            yield _turn(number, "conflict")(f"{row['id']}-{side}", texts=(text,), about=about)


def _semantic() -> Iterator[Planned]:
    for number, row in enumerate(read_table(TEXTS / "semantic.tsv")):
        about = {"class": row["class"], "word": row["word"]}
        yield _turn(number, "semantic")(row["id"], texts=(row["text"],), about=about)


def _fragments() -> Iterator[Planned]:
    for number, row in enumerate(read_table(TEXTS / "fragments.tsv")):
        yield _turn(number, "fragment")(row["id"], texts=(row["text"],))


def _foreign() -> Iterator[Planned]:
    for language in FOREIGN:
        for number, row in enumerate(read_table(TEXTS / f"{language}.tsv")):
            yield _turn(number, "foreign", language)(row["id"], texts=(row["text"],))


def _windows() -> Iterator[Planned]:
    for number, row in enumerate(read_table(TEXTS / "windows.tsv")):
        yield _turn(number, "window")(row["id"], texts=tuple(row["text"].split(" | ")))
