"""Which recordings ship: pairs whose words are heard, others unless half of them is lost."""

from __future__ import annotations

from hooked_whisper.neural.choose import fault, groups, hears_word, said_by
from hooked_whisper.neural.hear import Heard
from hooked_whisper.neural.plan import Planned, make_plan, voices_for

PAIR = [planned for planned in make_plan({}) if planned.kind == "pair"][:2]


def heard(planned: Planned, transcript: str) -> Heard:
    return Heard(planned, planned.text, transcript)


def transcripts(*pairs: tuple[Planned, str]) -> dict[str, Heard]:
    return {planned.id: heard(planned, transcript) for planned, transcript in pairs}


def test_a_pair_needs_both_words_by_every_model() -> None:
    a, b = PAIR
    right = transcripts((a, a.text), (b, b.text))
    wrong = transcripts((a, a.text), (b, a.text))
    assert fault((a, b), [right, right]) == ""
    assert "base" in fault((a, b), [right, wrong]) and "tiny.en" in fault((a, b), [wrong, right])
    careless = transcripts((a, "Some " + a.text.lower()), (b, b.text.replace("They", "You")))
    assert fault((a, b), [careless, careless]) == ""


def test_word_is_counted_at_its_time() -> None:
    planned = Planned("x", "pair", "en", "af_heart", "train", ("The pen is here.",))
    assert hears_word(heard(planned, "the Pen is here"), "pen")
    assert not hears_word(heard(planned, "The pan is here, pen."), "pen")


def test_other_recordings_fail_beyond_half_of_their_words() -> None:
    planned = Planned("x", "prose", "en", "af_heart", "train", ("one cat sat down",))
    assert fault((planned,), [transcripts((planned, "one dog ran down"))]) == ""
    assert fault((planned,), [transcripts((planned, "a dog ran down"))]) != ""


def test_a_model_that_did_not_hear_a_language_does_not_judge_it() -> None:
    planned = Planned("x", "foreign", "es", "ef_dora", "train", ("hola",))
    assert fault((planned,), [{}, transcripts((planned, "Hola."))]) == ""


def test_attempts_change_the_voice_of_a_whole_group_within_its_split() -> None:
    (group,) = groups(PAIR)
    voices = [said_by(group, attempt)[0].voice for attempt in range(4)]
    assert voices[0] == group[0].voice
    assert sorted(voices) == sorted(voice.name for voice in voices_for("pair", "en", "train"))
    assert all(len({planned.voice for planned in said_by(group, attempt)}) == 1 for attempt in range(4))
