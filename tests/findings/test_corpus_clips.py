"""Clips of a corpus: windows cut between words, speakers in turn, texts and times, and reported failures."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.corpus_clips import balanced, clips_of, origin_of
from hooked_whisper.findings.core.packing import n_packed, pack
from hooked_whisper.protocols import Alignment, Interval
from tests.findings.worlds import small_model

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def recording(name: str, seconds: float, words: tuple[tuple[float, float], ...] = (), text: str = "") -> Recording:
    intervals = tuple(Interval(a, b, f"w{k}") for k, (a, b) in enumerate(words))
    said = text or " ".join(i.label for i in intervals)
    alignment = Alignment(name, "", said, seconds, intervals)
    return Recording(name, noise(seconds), text=said, find_alignment=(lambda: alignment) if words else None)


def test_speakers_take_turns() -> None:
    corpus = [Recording(f"{s}{k}", "", speaker=s) for s, n in (("a", 3), ("b", 1), ("c", 2)) for k in range(n)]
    assert [r.id for r in balanced(corpus)] == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_a_long_recording_is_cut_between_words() -> None:
    model = small_model(n_ctx=100)  # a window of 2 s
    words = tuple((0.1 + 0.5 * k, 0.4 + 0.5 * k) for k in range(9))
    clips = clips_of(model, [recording("long", 4.7, words)])
    assert [u.id for u in clips.utterances] == ["long #1", "long #2", "long #3"]
    assert sum(len(u.samples) for u in clips.utterances) == round(4.7 * RATE)
    assert " ".join(u.text for u in clips.utterances) == " ".join(f"w{k}" for k in range(9))
    for u in clips.utterances:
        assert len(u.samples) <= 2 * RATE and all(w.end <= u.alignment.duration + 1e-9 for w in u.alignment.words)
        assert all(w.duration == pytest.approx(0.3) for w in u.alignment.words)
    assert clips.own_texts == clips.own_times == 0


def test_number_of_own_texts_and_times_is_counted() -> None:
    model = small_model(n_ctx=100)
    clips = clips_of(model, [recording("told", 1.0, text="yes"), recording("untold", 1.0)])
    assert clips.own_texts == 1 and clips.own_times == 2
    assert "1 texts are the model's own" in origin_of("x", clips)


def test_unusable_recordings_are_failures_and_the_others_are_loaded(tmp_path) -> None:
    model = small_model(n_ctx=100)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    good = tmp_path / "good.wav"
    soundfile.write(good, noise(1.0), RATE)
    corpus = [
        Recording("broken", broken, str(broken)),
        recording("too long", 3.0, text="no times"),
        Recording("good", good, str(good), text="yes"),
    ]
    clips = clips_of(model, corpus, own_times=False)
    assert [u.id for u in clips.utterances] == ["good"]
    assert [f.id for f in clips.failures] == ["broken", "too long"] and "--alignments" in clips.failures[1].reason
    with pytest.raises(AudioError, match="broken"):
        clips_of(model, corpus[:1])


def utterance(name: str, speaker: str, seconds: float) -> Clip:
    words = (Interval(0.0, seconds / 2, name),)
    phones = (Interval(0.0, seconds, "AA"),)
    return Clip.aligned(noise(seconds), Alignment(name, speaker, name, seconds, words, phones))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.2, 9)), min_size=1, max_size=12))
def test_packing_keeps_audio_words_and_phones(clips: list[tuple[str, float]]) -> None:
    originals = [utterance(f"u{k}", speaker, seconds) for k, (speaker, seconds) in enumerate(clips)]
    windows = pack(originals, room=10.0)
    assert n_packed(windows) == len(originals)
    assert sorted(w.label for u in windows for w in u.alignment.words) == sorted(u.id for u in originals)
    for window in windows:
        assert len(window.samples) <= 10 * RATE
        assert len({u.alignment.speaker for u in originals if u.id in window.text.split()}) == 1
        for word in window.alignment.words:  # each word's sound is where its time says
            original = next(u for u in originals if u.id == word.label)
            start = round(word.start * RATE)
            np.testing.assert_array_equal(window.samples[start : start + 100], original.samples[:100])
