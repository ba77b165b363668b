"""Synthesis that is resumable, windows that fill their time, and files that are taken for what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper.errors import AudioError
from hooked_whisper.neural import build as builds
from hooked_whisper.neural.build import (
    LONGEST_S,
    MARGIN_S,
    PAUSES_S,
    SHORTEST_S,
    build,
    is_done,
    load,
    save,
    sounding_span,
    synthesize,
)
from hooked_whisper.neural.kokoro import RATE
from hooked_whisper.neural.plan import Planned
from tests.neural.speech import Tones, synthesis, words

PROSE = Planned("p1", "prose", "en", "af_heart", "train", ("mama tata.",))


@pytest.fixture(autouse=True)
def letters_for_phones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "phonemize", lambda text, language: words(text))


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    recording, audio = synthesis(PROSE.text, planned=PROSE)
    assert not is_done(PROSE, tmp_path)
    save(recording, audio, tmp_path)
    again, samples = load(PROSE, tmp_path)
    assert again == recording
    assert np.abs(samples - audio).max() < 1e-4


def test_recording_of_another_voice_or_text_is_made_again(tmp_path: Path) -> None:
    save(*synthesis(PROSE.text, planned=PROSE), tmp_path)
    assert is_done(PROSE, tmp_path)
    for other in (
        Planned("p1", "prose", "en", "am_puck", "train", PROSE.texts),
        Planned("p1", "prose", "en", "af_heart", "train", ("tata.",)),
    ):
        assert not is_done(other, tmp_path)
        with pytest.raises(AudioError, match="'p1'"):
            load(other, tmp_path)


def test_build_makes_only_missing_files(tmp_path: Path) -> None:
    save(*synthesis(PROSE.text, planned=PROSE), tmp_path)
    assert build([PROSE], tmp_path, tmp_path / "no_voices_needed") == 0


def test_recording_without_json_is_made_again(tmp_path: Path) -> None:
    save(*synthesis(PROSE.text, planned=PROSE), tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text("utf-8"))["samples"] == len(load(PROSE, tmp_path)[1])
    path.unlink()
    assert not is_done(PROSE, tmp_path)


def test_a_window_takes_the_sentences_that_fit() -> None:
    sentences = tuple("mama tata kaka sasa mama tata kaka sasa" for _ in range(12))  # about 3.5 s each
    window = Planned("w1", "window", "en", "af_heart", "train", sentences)
    recording, audio = synthesize(window, Tones())
    assert SHORTEST_S * RATE <= len(audio) <= LONGEST_S * RATE
    assert 1 < len(recording.sentences) < len(sentences)
    assert recording.text == " ".join(sentences[: len(recording.sentences)])
    second = recording.sentences[1]
    first_length = np.subtract(*sounding_span(Tones().speak(second.phonemes.symbols, "x").audio, MARGIN_S)[::-1])
    lead = sounding_span(Tones().speak(second.phonemes.symbols, "x").audio, MARGIN_S)[0]
    assert second.start == first_length + round(PAUSES_S[1] * RATE) - lead


def test_partly_filled_window_is_refused() -> None:
    window = Planned("w1", "window", "en", "af_heart", "train", ("mama", "tata"))
    with pytest.raises(AudioError, match="'w1'"):
        synthesize(window, Tones())
