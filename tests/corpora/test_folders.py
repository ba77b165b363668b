"""Folders of audio, LibriSpeech, TIMIT, and alignments that are matched to recordings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import (
    Recording,
    Tiers,
    apply_alignments,
    audio_folder,
    fold_timit,
    librispeech,
    parent_folder,
    timit,
    to_textgrid,
)
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from tests.corpora.sounds import write_noise

GRID = to_textgrid(Alignment("", "", "", 0.1, (Interval(0.0, 0.1, "hi"),), (Interval(0.0, 0.1, "AY"),)))


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def ids(corpus: list[Recording]) -> list[str]:
    return [recording.id for recording in corpus]


def test_every_audio_file_is_found_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.wav", "a/x.FLAC", "a/y.ogg", "ä b.wav", ".hidden.wav", ".git/z.wav", "a/.b/z.wav"):
        write_noise(tmp_path / name)
    write(tmp_path / "a/x.txt", "  Hello \n there ")
    write(tmp_path / "b.lab", "\ufeffbee")
    write(tmp_path / "readme.md", "no audio")
    corpus = audio_folder(tmp_path, speaker=parent_folder)
    assert ids(corpus) == ["a/x", "a/y", "b", "ä b"] == ids(audio_folder(str(tmp_path)))
    assert [recording.speaker for recording in corpus] == ["a", "a", "", ""]
    assert [recording.text for recording in corpus] == ["Hello there", "", "bee", ""]
    assert {recording.speaker for recording in audio_folder(tmp_path)} == {""}
    assert all(recording.alignment() is None for recording in corpus)
    assert torch.equal(corpus[2].audio(), load_audio(tmp_path / "b.wav"))


def test_ids_are_unique(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "b.wav"):
        write_noise(tmp_path / name)
    assert ids(audio_folder(tmp_path)) == ["a.flac", "a.wav", "b"]
    write_noise(tmp_path / "a.wav.flac")
    assert ids(audio_folder(tmp_path)) == ["a.flac", "a.wav", "a.wav.flac", "b.wav"]


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio files"):
        audio_folder(tmp_path)
    with pytest.raises(AudioError, match="no folder"):
        audio_folder(tmp_path / "gone")
    write_noise(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(AudioError, match=r"a\.txt', line 1.*UTF-8"):
        audio_folder(tmp_path)


def test_alignments_beside_the_audio(tmp_path: Path) -> None:
    for name in "abc":
        write_noise(tmp_path / f"{name}.wav")
    write(tmp_path / "a.TextGrid", GRID)
    write(tmp_path / "b.PHN", "0 1600 ax\n")
    write(tmp_path / "b.WRD", "0 1600 uh\n")
    write(tmp_path / "b.txt", "Uh!")
    write(tmp_path / "c.json", '{"color": "red"}')
    a, b, c = audio_folder(tmp_path, tiers=Tiers(relabel=fold_timit), speaker=lambda path: path.stem.upper())
    assert a.alignment() == Alignment("a", "A", "hi", 0.1, (Interval(0.0, 0.1, "hi"),), (Interval(0.0, 0.1, "AY"),))
    alignment = b.alignment()
    assert alignment is not None and alignment.text == "Uh!"
    assert (alignment.words, alignment.phones) == ((Interval(0.0, 0.1, "uh"),), (Interval(0.0, 0.1, "AH"),))
    with pytest.raises(AlignmentError, match=r"c\.json"):
        c.alignment()


def test_alignments_in_a_parallel_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x/a", "y/a", "y/b", "y/c"):
        write_noise(tmp_path / f"audio/{name}.wav")
    write(tmp_path / "grids/x/a.TextGrid", GRID)
    write(tmp_path / "grids/deep/b.TextGrid", GRID.replace("hi", "bee"))
    with caplog.at_level(logging.INFO):
        corpus = audio_folder(tmp_path / "audio", alignments=tmp_path / "grids")
    assert "2 of 4 recordings have an alignment" in caplog.text
    texts = {recording.id: alignment.text for recording in corpus if (alignment := recording.alignment())}
    assert texts == {"x/a": "hi", "y/b": "bee"}
    flat = apply_alignments(corpus, [write(tmp_path / "a.TextGrid", GRID.replace("hi", "no")), tmp_path / "grids"])
    assert [recording.alignment() is not None for recording in flat] == [
        True,
        False,
        True,
        False,
    ]  # which "a" it belongs to is unknown


def test_ctms_of_a_whole_corpus(tmp_path: Path) -> None:
    corpus = [Recording(f"s/{k}", None, speaker="s") for k in "abc"]
    words = write(tmp_path / "words.ctm", "a 1 0 0.5 ay\nb 1 0 0.5 bee\nb 1 0.1 oops\n")
    phones = write(tmp_path / "phones.ctm", "a 1 0 0.5 EY1\n")
    a, b, c = apply_alignments(corpus, [words, phones])
    assert a.alignment() == Alignment("s/a", "s", "ay", 0.5, (Interval(0.0, 0.5, "ay"),), (Interval(0.0, 0.5, "EY1"),))
    with pytest.raises(AlignmentError, match=r"words\.ctm', line 3"):  # one broken line spoils one recording
        b.alignment()
    assert c.alignment() is None
    (aligned_solo,) = apply_alignments([Recording("solo", None)], write(tmp_path / "solo.ctm", "other 1 0 0.5 ay\n"))
    assert aligned_solo.alignment().text == "ay"


def test_no_match_shows_both_sides(tmp_path: Path) -> None:
    write(tmp_path / "grids/b.TextGrid", GRID)
    with pytest.raises(AlignmentError, match=r"'a'.*'b'"):
        apply_alignments([Recording("a", None)], tmp_path / "grids")
    for source, message in [("gone.TextGrid", "no file"), ("gone.ctm", "cannot be read"), ("empty", "no files in")]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(AlignmentError, match=message):
            apply_alignments([Recording("a", None)], tmp_path / source)


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    root = tmp_path / "LibriSpeech"
    for subset, chapter in (("dev-clean", "84/121123"), ("dev-clean", "84/9"), ("test-clean", "7/3")):
        name = chapter.replace("/", "-")
        for k in range(2):
            write_noise(root / subset / chapter / f"{name}-{k:04d}.flac")
        write(root / subset / chapter / f"{name}.trans.txt", f"{name}-0000 GO  ON\n")
    write(root / "SPEAKERS.TXT", "; not read\n")
    return root


def test_librispeech(libri: Path) -> None:
    corpus = librispeech(libri)
    names = ["84-121123", "84-9", "7-3"]
    assert ids(corpus) == [f"{name}-{k:04d}" for name in names for k in range(2)] == ids(librispeech(libri.parent))
    assert [recording.speaker for recording in corpus] == ["84"] * 4 + ["7"] * 2
    assert [recording.text for recording in corpus] == ["GO ON", ""] * 3
    assert ids(librispeech(libri, ["test-clean"])) == ["7-3-0000", "7-3-0001"]
    assert len(corpus[0].audio()) == 1600
    write(libri.parent / "grids/dev-clean/84/9/84-9-0001.TextGrid", GRID)
    aligned = librispeech(libri, alignments=libri.parent / "grids")
    assert [recording.id for recording in aligned if recording.alignment()] == ["84-9-0001"]


def test_librispeech_errors(libri: Path) -> None:
    with pytest.raises(AudioError, match="did you mean 'test-clean'"):
        librispeech(libri, ["test-claen"])
    with pytest.raises(AudioError, match="not laid out"):
        librispeech(libri / "dev-clean")
    with pytest.raises(AudioError, match="no folder"):
        librispeech(libri / "gone")
    transcript = libri / "dev-clean/84/9/84-9.trans.txt"
    for line in ("84-9-0001", "85-9-0001 WRONG", "84-9-0000 TWICE"):
        write(transcript, f"84-9-0000 GO ON\n\n{line}\n")
        with pytest.raises(AudioError, match=r"84-9\.trans\.txt', line 3: expected"):
            librispeech(libri)


def test_timit(tmp_path: Path) -> None:
    folder = tmp_path / "TRAIN/DR1/FCJF0"
    folder.mkdir(parents=True)
    write_noise(folder / "SA1.WAV", format="NIST")
    write_noise(folder / "SA1.WAV.wav")  # a copy that some distributions add
    write_noise(folder / "SA2.WAV", format="NIST")
    write(folder / "SA1.PHN", "0 800 h#\n800 1600 sh\n")
    write(folder / "SA1.WRD", "800 1600 she\n")
    write(folder / "SA1.TXT", "0 1600 She had.\n")
    first, second = timit(tmp_path)
    (unfolded,) = [a.alignment() for a in timit(tmp_path, phones=61) if a.id == first.id]
    assert unfolded is not None and [p.label for p in unfolded.phones] == [SILENCE, "sh"]
    with pytest.raises(AudioError, match=r"39 .* or 61"):
        timit(tmp_path, phones=48)
    assert (first.id, first.speaker, first.text) == ("TRAIN/DR1/FCJF0/SA1", "FCJF0", "She had.")
    alignment = first.alignment()
    assert alignment is not None and alignment.text == "She had." and alignment.words == (Interval(0.05, 0.1, "she"),)
    assert alignment.phones == (Interval(0.0, 0.05, SILENCE), Interval(0.05, 0.1, "SH"))
    assert alignment.extra == {"sex": "female", "dialect_region": "1"}
    assert len(first.audio()) == 1600 and second.alignment() is None and second.text == ""
    write(folder / "SA2.TXT", "She had.\n")
    with pytest.raises(AudioError, match=r"SA2\.TXT"):
        timit(tmp_path)
    with pytest.raises(AudioError, match=r"no \.wav"):
        timit(write(tmp_path / "empty/x.txt", "").parent)
