"""Select the recordings that Whisper can transcribe.

- A minimal pair is accepted if every model transcribes both words correctly. The clearest voices are tried in turn.
- Any other recording is accepted unless a model gets more than half of its words wrong. Otherwise the next voice of its
  split is tried. Both sides of a conflict pair change voice together.
- A recording that fails with :data:`ATTEMPTS` voices is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.neural.build import build
from hooked_whisper.neural.hear import MODELS, Heard, hear
from hooked_whisper.neural.plan import CHOICES, Choice, Planned, make_plan, voices_for
from hooked_whisper.text import normalizer_for, word_diff

ATTEMPTS = 3  # voices, the planned one included
MOST_WER = 0.5
RULES = (
    "A minimal pair is packaged if tiny.en and base transcribe both words correctly (greedy, no timestamps, Whisper's "
    "normalizer). Any other recording is packaged unless one of them gets more than half of its words wrong (outside "
    f"English, only base). A recording that fails gets the next voice, and is dropped after {ATTEMPTS} voices."
)

Group = tuple[Planned, ...]


def choose(folder: Path, voices: Path, models: Sequence[str] = MODELS, processes: int = 1) -> dict[str, Choice]:
    """Build and transcribe the planned recordings, trying other voices for those that fail. Return the exceptions.

    Existing recordings and transcripts in ``folder`` are reused.
    """
    choices: dict[str, Choice] = {}
    waiting = groups(make_plan({}))
    for attempt in range(ATTEMPTS):
        tried = [said_by(group, attempt) for group in waiting]
        plan = [planned for group in tried for planned in group]
        build(plan, folder, voices, processes)
        heard = [{heard.planned.id: heard for heard in hear(plan, folder, model)} for model in models]
        failed = []
        for group, version in zip(waiting, tried, strict=True):
            reason = fault(version, heard)
            if reason:
                failed.append(group)
            for planned in group if reason or attempt else ():
                voice = "" if reason else version[0].voice
                choices[planned.id] = Choice(planned.id, voice, reason or choices[planned.id].reason)
        waiting = [
            group for group in failed if len(voices_for(group[0].kind, group[0].language, group[0].split)) > attempt + 1
        ]
    return choices


def write_choices(choices: dict[str, Choice], path: Path = CHOICES) -> None:
    """Write ``choices.tsv``, sorted by id."""
    rows = (f"{choice.id}\t{choice.voice}\t{choice.reason}\n" for _, choice in sorted(choices.items()))
    write_atomic(path, ("id\tvoice\treason\n" + "".join(rows)).encode())


def groups(plan: Sequence[Planned]) -> list[Group]:
    """Group the recordings that must have the same voice: the two sides of a pair."""
    by_name: dict[str, list[Planned]] = {}
    for planned in plan:
        by_name.setdefault(planned.about.get("pair", planned.id), []).append(planned)
    return [tuple(group) for group in by_name.values()]


def said_by(group: Group, attempt: int) -> Group:
    """Return the group with the voice of an attempt: the planned voice, then the next ones of the same split."""
    candidates = voices_for(group[0].kind, group[0].language, group[0].split)
    first = next(k for k, voice in enumerate(candidates) if voice.name == group[0].voice)
    voice = candidates[(first + attempt) % len(candidates)]
    return tuple(replace(planned, voice=voice.name, split=voice.split) for planned in group)


def fault(group: Group, heard: Sequence[dict[str, Heard]]) -> str:
    """Return why a group fails, with model and transcript; empty if it is accepted."""
    for model, transcripts in zip(MODELS, heard, strict=False):
        for planned in group:
            if planned.id not in transcripts:  # an English-only model and another language
                continue
            answer = transcripts[planned.id]
            wrong = planned.kind == "pair" and not hears_word(answer, planned.about["word"])
            if wrong or (planned.kind != "pair" and answer.errors.wer > MOST_WER):
                return f"{model} by {planned.voice}: {' '.join(answer.transcript.split())}"
    return ""


def hears_word(heard: Heard, word: str) -> bool:
    """Return whether the transcript has a word of the text at the same place."""
    normalize = normalizer_for(heard.planned.language)
    reference, wanted = normalize(heard.text), normalize(word)
    return any(
        wanted in operation.reference and operation.kind == "equal"
        for operation in word_diff(reference, normalize(heard.transcript))
    )
