"""Durations to times: tiling, leads, spaces and stress marks, silences and closures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.neural.build import Sentence, Synthesis
from hooked_whisper.neural.kokoro import FRAME_S, RATE
from hooked_whisper.neural.phonemes import Phone, Phonemes, Word
from hooked_whisper.neural.plan import Planned
from hooked_whisper.neural.times import (
    CLOSURE_S,
    PHONE_LEAD_S,
    WORD_LEAD_S,
    corrected,
    find_times,
)
from hooked_whisper.protocols import SILENCE
from tests.neural.speech import LEAD_FRAMES, synthesis

TEXTS = st.lists(
    st.tuples(st.text("abmkts", min_size=1, max_size=5), st.sampled_from(["", "", ",", "."])), min_size=1, max_size=7
).map(lambda parts: " ".join(word + mark for word, mark in parts))


@given(TEXTS, st.integers(1, 6))
def test_phones_tile_the_recording_and_words_are_runs_of_them(text: str, frames: int) -> None:
    recording, audio = synthesis(text, frames)
    times = find_times(recording, audio)
    assert times.phones[0].start == 0 and times.phones[-1].end == pytest.approx(len(audio) / RATE)
    assert all(a.end == b.start for a, b in zip(times.phones, times.phones[1:], strict=False))
    assert all(phone.duration > 0 for phone in times.phones)
    spoken = [phone.label for phone in times.phones if phone.label != SILENCE]
    assert spoken == [phone.label for word in recording.sentences[0].phonemes.words for phone in word.phones]
    assert [word.label for word in times.words] == [word.text for word in recording.sentences[0].phonemes.words]
    edges = {phone.start for phone in times.phones} | {times.phones[-1].end}
    assert all(word.start in edges and word.end in edges for word in times.words)
    assert all(a.end <= b.start for a, b in zip(times.words, times.words[1:], strict=False))


def test_leads_are_taken_off_and_a_space_belongs_to_the_word_after_it() -> None:
    recording, _ = synthesis("ab cd", frames=4)
    first, second = corrected(recording.sentences[0])
    assert first.starts == pytest.approx(
        (LEAD_FRAMES * FRAME_S - WORD_LEAD_S, (LEAD_FRAMES + 4) * FRAME_S - PHONE_LEAD_S)
    )
    assert second.starts[0] == pytest.approx((LEAD_FRAMES + 8) * FRAME_S - WORD_LEAD_S)
    assert second.after_space == pytest.approx(second.starts[0] + 4 * FRAME_S)
    assert second.starts[1] == pytest.approx((LEAD_FRAMES + 16) * FRAME_S - PHONE_LEAD_S)


def test_a_stress_mark_belongs_to_the_phone_after_it() -> None:
    word = Word("be", (Phone("b", "B"), Phone("ˈi", "IY")))
    sentence = Sentence(Phonemes((word,)), 0, (10, 2, 3, 4, 5))
    (spoken,) = corrected(sentence, 0.0, 0.0)
    assert spoken.starts == pytest.approx((10 * FRAME_S, 12 * FRAME_S))
    assert spoken.end == pytest.approx(19 * FRAME_S)


@pytest.mark.parametrize(("following", "closure"), [("mama", 0.0), ("tata", CLOSURE_S)])
def test_silence_after_a_mark_is_an_interval_and_a_stop_keeps_its_closure(following: str, closure: float) -> None:
    recording, audio = synthesis(f"ma, {following}", frames=6)
    times = find_times(recording, audio)
    (pause,) = [phone for phone in times.phones[1:-1] if phone.label == SILENCE]
    silent_from, silent_to = ((LEAD_FRAMES + n * 6) * FRAME_S for n in (2, 3))
    assert pause.start == pytest.approx(silent_from, abs=0.011)
    assert pause.end == pytest.approx(silent_to - closure, abs=0.011)
    assert times.words[0].end == pause.start and times.words[1].start == pause.end


def test_speech_ends_where_the_sound_does() -> None:
    recording, audio = synthesis("mama.", frames=4)
    assert find_times(recording, audio).words[-1].end == pytest.approx((LEAD_FRAMES + 16) * FRAME_S, abs=0.011)


def test_sentences_of_a_window_follow_each_other() -> None:
    (mama, first), (two, second) = synthesis("mama"), synthesis("tata")
    cut = 2000
    later = Sentence(two.sentences[0].phonemes, len(first) - cut, two.sentences[0].durations)
    planned = Planned("w", "window", "en", "af_heart", "train", ("mama", "tata"))
    audio = np.concatenate([first, second[cut:]])
    times = find_times(Synthesis(planned, (mama.sentences[0], later), len(audio)), audio)
    alone = find_times(two, second)
    assert times.words[1].end == pytest.approx(alone.words[0].end + (len(first) - cut) / RATE, abs=0.006)
    assert times.phones[-1].end == pytest.approx(len(audio) / RATE)
