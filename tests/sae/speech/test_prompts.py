"""Human prompts from Debian packages: download, checks, unpacking, and the passages joined from them."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora import Recording, open_corpus, packaged_speech
from hooked_whisper.errors import CheckpointError, ConfigError, MissingExtraError
from sae_lens_audio.speech import prompts
from sae_lens_audio.speech.__main__ import main
from sae_lens_audio.speech.prompts import fetch_prompts, find_prompts, open_prompts, prompt_packages
from sae_lens_audio.speech.recorded import RecordedPassage, join_recordings, packaged_passages

TEXTS = "activated: Activated.\nhello: hello there\nbeep: [a short beep]\nsilence/1: (one second of silence)\n"
NAMES = ("activated", "hello", "beep", "silence/1", "not-in-the-list")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def deb(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """Build a Debian package with these files."""
    root = folder / f"{name}-root"
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@t>\nDescription: t\n"
    for path, content in {"DEBIAN/control": control.encode(), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    path = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(path)], check=True, capture_output=True)
    shutil.rmtree(root)
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages with prompts of half a second, pinned in place of the real ones."""
    G722 = pytest.importorskip("G722").G722
    folder = tmp_path / "archive"
    folder.mkdir()
    times = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    tone = G722(SAMPLE_RATE, 64_000).encode((8000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16))
    sounds = "usr/share/asterisk/sounds/en_US_f_Allison"
    files = [
        deb(folder, "sounds-g722", {f"{sounds}/{name}.g722": tone for name in NAMES}),
        deb(folder, "sounds", {"usr/share/doc/sounds/core-sounds-en.txt.gz": gzip.compress(TEXTS.encode())}),
    ]
    rows = [f"en\t{f.name.split('_')[0]}\t1.0\t{hashlib.sha256(f.read_bytes()).hexdigest()}" for f in files]
    table = tmp_path / "prompts.tsv"
    table.write_text("\n".join(["language\tpackage\tversion\tsha256", *rows]) + "\n")
    monkeypatch.setattr(prompts, "TABLE", table)
    return folder


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a command ``apt-get`` in front of the search path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@needs_dpkg
def test_command_downloads_unpacks_and_joins(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(tmp_path, monkeypatch, f'[ "$1" = download ] && [ "$2" = sounds-g722=1.0 ] && cp {archive}/*.deb .')
    out = tmp_path / "speech"
    command = [str(out), "--kokoro", "0", "--flite", "0", "--prompts", "all"]
    assert main(command) == 0
    (recording,) = open_corpus(out)
    assert (recording.speaker, recording.language) == ("human-Allison", "en")
    assert sorted(recording.text.split(" ", 1)) in (["Activated.", "hello there"], ["hello", "there Activated."])
    assert abs(len(recording.audio()) / SAMPLE_RATE - 1.25) < 0.01  # two prompts and a pause: no beep, no silence
    before = (out / f"{recording.id}.ogg").stat().st_mtime_ns
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\nexit 1\n")  # nothing is left to download
    assert main(command) == 0
    assert (out / f"{recording.id}.ogg").stat().st_mtime_ns == before


@needs_dpkg
def test_command_with_a_folder_of_packages(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speech"
    common = [str(out), "--kokoro", "0", "--flite", "0"]
    assert main([*common, "--prompts", "en", "--prompts-from", str(archive)]) == 0
    assert len(open_corpus(out)) == 1
    assert main([*common, "--prompts", "en", "--prompts-from", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "sounds-g722_1.0_all.deb" in message and "--prompts-from" in message
    with pytest.raises(SystemExit):
        main([*common, "--prompts-from", str(archive)])
    assert "--prompts all" in capsys.readouterr().err


@needs_dpkg
def test_failures_say_what_to_do(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = prompt_packages(["en"])
    fake_apt(tmp_path, monkeypatch, "echo no network >&2; exit 100")
    with pytest.raises(MissingExtraError, match=r"sounds-g722=1\.0.*no network.*--prompts-from"):
        fetch_prompts(packages, tmp_path / "new")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingExtraError, match=r"apt-get.*not installed"):
        fetch_prompts(packages, tmp_path / "new")
    with pytest.raises(MissingExtraError, match="dpkg-deb"):
        open_prompts([], tmp_path)


@needs_dpkg
def test_changed_package_is_refused(archive: Path, tmp_path: Path) -> None:
    packages = prompt_packages(["en"])
    file = archive / packages[0].file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"SHA-256.*{packages[0].sha256}"):
        find_prompts(packages, archive)
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        open_prompts([Path(__file__)], tmp_path)


def test_real_table_has_sounds_and_texts_of_each_language() -> None:
    packages = prompt_packages()
    assert [package.language for package in packages] == [code for code in ("en", "es", "fr", "it", "ru") for _ in "ab"]
    assert all(len(package.sha256) == 64 for package in packages)
    assert {package.language for package in prompt_packages(["it"])} == {"it"}


def test_unknown_language_is_refused(unchecked: None) -> None:
    with pytest.raises(ConfigError, match="'fr'"):
        prompt_packages(["fra"])  # type: ignore[list-item]


def tone(number: int, seconds: float, speaker: str) -> Recording:
    samples = np.full(round(seconds * SAMPLE_RATE), 0.1, np.float32)
    return Recording(f"clip-{number:03d}", samples, speaker=speaker, text=f"clip {number}", language="en")


def test_passages_hold_every_recording_of_one_speaker_once() -> None:
    corpus = [tone(number, 3.0 + number % 3, "ab"[number % 2]) for number in range(40)]
    passages = join_recordings(corpus, "human", "human")
    joined = [recording.id for passage in passages for recording in passage.recordings]
    assert sorted(joined) == [recording.id for recording in corpus] and joined != sorted(joined)
    for passage in passages:
        assert {recording.speaker for recording in passage.recordings} == {passage.speaker.removeprefix("human-")}
        spoken = passage.read()
        assert len(spoken.samples) <= 29 * SAMPLE_RATE
        assert spoken.text == " ".join(recording.text for recording in passage.recordings)
    again = join_recordings(corpus[::-1], "human", "human")
    assert [passage.key for passage in again] == [passage.key for passage in passages]
    assert [passage.key for passage in join_recordings(corpus, "human", "human", seed=1)] != [p.key for p in passages]


def test_long_recording_is_a_passage_by_itself() -> None:
    passages = join_recordings([tone(0, 40, "a"), tone(1, 2, "a")], "human", "human")
    assert sorted(len(passage.recordings) for passage in passages) == [1, 1]


def test_packaged_passages_have_no_held_out_voice_or_sentence() -> None:
    passages: list[RecordedPassage] = packaged_passages()
    held_out = packaged_speech(split="held-out")
    texts = {recording.text for recording in held_out}
    voices = {f"kokoro-{recording.speaker}" for recording in held_out}
    assert voices.isdisjoint(passage.speaker for passage in passages)
    assert texts.isdisjoint(recording.text for passage in passages for recording in passage.recordings)
    assert {passage.language for passage in passages} == {"en", "es", "fr", "it", "pt"}
