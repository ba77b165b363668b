"""``hooked-whisper scan``, by itself and under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.cli.parser import main
from hooked_whisper.features import load_scan


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Five clips of noise, and one file that is none."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(5):
        soundfile.write(folder / f"{k}.wav", 0.1 * rng.standard_normal(8000 * (k + 1)), 16000)
    (folder / "broken.wav").write_bytes(b"no sound")
    return folder


def test_scan_command_equals_scan(audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hooks = ["--hook", "encoder.blocks.1.mlp.1", "--hook", "encoder.blocks.0"]
    arguments = ["scan", *hooks, "--audio", str(audio), "--out", str(tmp_path / "scan"), "--top", "3", "--threads", "1"]
    assert main(arguments) == 1
    said, told = capsys.readouterr()
    assert "encoder.blocks.1.mlp.hook_post: 512 features" in said and "open with" in said
    assert "1 of 6 recordings could not be used" in told and "broken: " in told
    result = load_scan(tmp_path / "scan")
    assert list(result.bases) == ["encoder.blocks.1.mlp.hook_post", "encoder.blocks.0.hook_resid_post"]
    assert result.header["options"]["k"] == 3 and [failure["id"] for failure in result.failures] == ["broken"]


def test_pages_are_written_though_a_recording_is_broken(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["features", "--audio", str(audio), "--units", "0:2", "--top", "1", "--per-range", "0"]
    assert main([*arguments, "--out", str(tmp_path / "site"), "--threads", "1"]) == 1
    said, told = capsys.readouterr()
    assert (tmp_path / "site/index.html").is_file() and "open " in said and "1 of 6 recordings" in told
    for path in audio.glob("?.wav"):
        path.write_bytes(b"no sound")
    assert main([*arguments, "--out", str(tmp_path / "nothing"), "--threads", "1"]) == 2


@pytest.mark.slow
def test_torchrun_writes_the_same_bytes(audio: Path, tmp_path: Path) -> None:
    tail = ["--hook", "encoder.blocks.1.mlp.1", "--audio", str(audio), "--chunk", "1", "--threads", "1", "--out"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, out in (([sys.executable], "one"), (run, "two")):
        command = [*start, "-m", "hooked_whisper", "scan", *tail, str(tmp_path / out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1, done.stderr[-2000:]  # one recording is broken
        assert done.stdout.count("open with") == 1
    assert json.loads((tmp_path / "one" / "scan.json").read_text())["recordings"] == 5
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_torchrun_writes_one_site(audio: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        "-m",
        "hooked_whisper",
        "features",
        "--audio",
        str(audio),
        "--units",
        "0:3",
        "--out",
        str(tmp_path / "s"),
    ]
    done = subprocess.run([*run, *command, "--threads", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-2000:]  # one recording is broken
    assert (tmp_path / "s" / "index.html").is_file() and done.stdout.count("open ") == 1
