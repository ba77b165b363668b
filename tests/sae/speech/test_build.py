"""Synthesis of the training speech, with a synthesizer that hums."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper._support.locks import locked
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora import open_corpus
from hooked_whisper.errors import AudioError, HookedWhisperError
from hooked_whisper.synthetic import flite
from sae_lens_audio.speech import build_training_speech, plan_passages
from sae_lens_audio.speech.__main__ import main
from sae_lens_audio.speech.build import speak_passage
from sae_lens_audio.speech.sounds import with_sound

SENTENCE_S = 4.0


@pytest.fixture
def hum(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace flite by a tone of 4 s per sentence. Returns the list of spoken texts."""
    spoken: list[str] = []

    def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
        spoken.append(text)
        times = np.arange(int(SENTENCE_S * SAMPLE_RATE)) / SAMPLE_RATE
        return (0.1 * np.sin(2 * np.pi * 300 * times)).astype(np.float32), SAMPLE_RATE

    monkeypatch.setattr(flite, "speak", speak)
    return spoken


def test_build_writes_a_corpus_and_resumes(hum: list[str], tmp_path: Path) -> None:
    passages = plan_passages({"flite": 4 * 27 / 3600})
    assert build_training_speech(passages[:2], tmp_path, progress=False) == 2
    first = (tmp_path / "flite-00000.ogg").read_bytes()
    assert build_training_speech(passages, tmp_path, progress=False) == 2
    assert (tmp_path / "flite-00000.ogg").read_bytes() == first
    corpus = open_corpus(tmp_path)
    assert [recording.id for recording in corpus] == [passage.id for passage in passages]
    for recording, passage in zip(corpus, passages, strict=True):
        assert recording.text == " ".join(passage.texts[:6])  # six sentences and five pauses fit into 29 s
        assert recording.speaker == f"flite-{passage.voice}"
        assert 25 <= len(recording.audio()) / SAMPLE_RATE <= 29


def test_lost_audio_is_made_again(hum: list[str], tmp_path: Path) -> None:
    passages = plan_passages({"flite": 2 * 27 / 3600})
    build_training_speech(passages, tmp_path, progress=False)
    (tmp_path / "flite-00001.ogg").unlink()
    assert build_training_speech(passages, tmp_path, progress=False) == 1


def test_foreign_table_is_refused(hum: list[str], tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.ogg", "text": "hello"}) + "\n")
    with pytest.raises(AudioError, match="choose another folder"):
        build_training_speech(plan_passages({"flite": 0.005}), tmp_path, progress=False)


def test_damaged_table_is_named_and_stays(hum: list[str], tmp_path: Path) -> None:
    passages = plan_passages({"flite": 2 * 27 / 3600})
    build_training_speech(passages, tmp_path, progress=False)
    table = tmp_path / "metadata.jsonl"
    table.write_text(damaged := table.read_text()[:-9])
    with pytest.raises(AudioError, match="line 2 is not JSON"):
        build_training_speech(passages, tmp_path, progress=False)
    assert table.read_text() == damaged
    table.write_text(damaged.splitlines()[0] + "\n")  # the remedy of the message
    assert build_training_speech(passages, tmp_path, progress=False) == 1


def test_two_processes_do_not_share_a_folder(hum: list[str], tmp_path: Path) -> None:
    with locked(tmp_path, "making speech in"), pytest.raises(HookedWhisperError, match="another process is making"):
        build_training_speech(plan_passages({"flite": 0.005}), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    assert build_training_speech(plan_passages({"flite": 0.005}), tmp_path, progress=False) == 1


def test_command(hum: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--kokoro", "0", "--flite", "0.01"]) == 0
    assert len(open_corpus(tmp_path)) == 2
    assert main([str(tmp_path), "--flite", "-1"]) == 2
    assert main([str(tmp_path), "--kokoro", "0", "--flite", "0"]) == 2 and "no speech" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file"), "--kokoro", "0"]) == 2 and "file" in capsys.readouterr().err


@pytest.mark.parametrize("sound", ["clean", "room", "noise"])
def test_sound_keeps_length_and_level(sound: str) -> None:
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal(SAMPLE_RATE)).astype(np.float32)
    changed = with_sound(audio, sound, seed=3)
    assert changed.shape == audio.shape and changed.dtype == np.float32
    assert np.std(changed) == pytest.approx(np.std(audio), rel=1e-3)
    assert np.array_equal(changed, audio) == (sound == "clean")
    np.testing.assert_array_equal(changed, with_sound(audio, sound, seed=3))


def test_noise_has_the_stated_snr() -> None:
    audio = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    for seed in range(10):
        changed = with_sound(audio, "noise", seed)
        share = float(changed @ audio) ** 2 / (float(changed @ changed) * float(audio @ audio))  # of the power
        assert 4 < 10 * np.log10(share / (1 - share)) < 26


def test_room_smears_sound_in_time() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[100] = 1.0
    tail = with_sound(click, "room", seed=1)
    assert np.abs(tail[:100]).max() < 1e-7  # rounding of the FFT
    energy = np.cumsum(tail.astype(np.float64) ** 2)
    assert energy[100 + 11_200 - 1] == pytest.approx(energy[-1])  # at most 0.7 s
    assert np.abs(tail).argmax() == 100


def test_sentence_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(text: str, voice: str) -> tuple[np.ndarray, int]:
        return np.ones(SAMPLE_RATE * (11 if len(text) % 2 else 3), np.float32), SAMPLE_RATE

    monkeypatch.setattr(flite, "speak", speak)
    for passage in plan_passages({"flite": 0.1}):
        spoken = speak_passage(passage, None)
        assert 18 * SAMPLE_RATE <= len(spoken.samples) <= 29 * SAMPLE_RATE
        assert spoken.text == " ".join(text for text in passage.texts if text in spoken.text)  # in order, some left out
