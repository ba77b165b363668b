"""Who says what: voices by split and language, both sides of a pair in one voice, exceptions."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from hooked_whisper.errors import AudioError
from hooked_whisper.neural import plan as plans
from hooked_whisper.neural.plan import CLEAREST, Choice, make_plan, voices_for
from hooked_whisper.neural.tables import voice_table

PLAN = make_plan({})


def test_voices_are_of_the_language_and_give_the_split() -> None:
    voices = {voice.name: voice for voice in voice_table()}
    for planned in PLAN:
        assert voices[planned.voice].language == planned.language
        assert voices[planned.voice].split == planned.split


def test_there_are_ten_english_voices_and_a_woman_and_a_man_are_held_out() -> None:
    english = [voice for voice in voice_table() if voice.language == "en"]
    assert len(english) >= 10
    assert sorted(voice.sex for voice in english if voice.split == "held-out") == ["female", "male"]


def test_both_sides_of_a_pair_have_one_voice() -> None:
    sides = defaultdict(set)
    for planned in PLAN:
        if planned.kind in ("pair", "conflict"):
            sides[planned.kind, planned.about["pair"]].add((planned.voice, planned.about["side"]))
    assert all(len(pair) == 2 and len({voice for voice, _ in pair}) == 1 for pair in sides.values())
    assert {planned.voice for planned in PLAN if planned.kind == "pair"} == set(CLEAREST)


def test_voices_take_turns() -> None:
    numbers = Counter(planned.voice for planned in PLAN if planned.kind == "prose" and planned.split == "train")
    assert max(numbers.values()) - min(numbers.values()) <= 1
    assert set(numbers) == {voice.name for voice in voices_for("prose", "en", "train")}


def test_choices_change_the_voice_or_drop() -> None:
    first, second = PLAN[0], PLAN[1]
    other = next(voice for voice in voices_for("prose", "en", first.split) if voice.name != first.voice)
    choices = {first.id: Choice(first.id, other.name, "misheard"), second.id: Choice(second.id, "", "misheard")}
    changed = make_plan(choices)
    assert changed[0].voice == other.name and changed[0].split == other.split
    assert [planned.id for planned in changed] == [planned.id for planned in PLAN if planned.id != second.id]
    with pytest.raises(AudioError, match="af_nobody"):
        make_plan({first.id: Choice(first.id, "af_nobody", "")})


def test_ids_are_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({planned.id for planned in PLAN}) == len(PLAN)
    monkeypatch.setattr(plans, "_fragments", plans._semantic)
    with pytest.raises(AudioError, match="s001"):
        make_plan({})
