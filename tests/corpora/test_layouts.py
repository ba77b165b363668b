"""Published corpora open by their own layout: NLTK's TIMIT, Asterisk's prompts, Common Voice, FLEURS, folders with a
table of texts; and an alignment is that of its audio."""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hooked_whisper._support.storage import AnyPath, as_path
from hooked_whisper.audio import load_audio
from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of
from hooked_whisper.corpora import (
    Recording,
    asterisk,
    common_voice,
    fleurs,
    manifest,
    open_corpus,
    read_alignment,
    to_textgrid,
)
from hooked_whisper.corpora.parts import load_part
from hooked_whisper.errors import AlignmentError, AudioError, MissingExtraError
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from tests.corpora.sounds import write_noise


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def uploaded(folder: Path, place: AnyPath) -> AnyPath:
    for path in folder.rglob("*"):
        if path.is_file():
            target = place / path.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return place


def facts(corpus: list[Recording]) -> list[tuple[str, str, str, str]]:
    return [(recording.id, recording.speaker, recording.text, recording.language) for recording in corpus]


# TIMIT --------------------------------------------------------------------------------------------------------------


def nltk_sample(folder: Path) -> Path:
    for speaker in ("dr1-fvmh0", "dr2-mcpm0"):
        write_noise(folder / speaker / "sa1.wav", 0.5, format="NIST")
        write(folder / speaker / "sa1.phn", "0 1600 h#\n1600 2400 bcl\n2400 3200 b\n3200 4800 q\n4800 8000 axr\n")
        write(folder / speaker / "sa1.wrd", "1600 8000 burr\n")
        write(folder / speaker / "sa1.txt", "0 8000 Burr.\n")
    write(folder / "prompts.txt", "; all prompts\n")
    return folder


def test_the_sample_of_nltk_is_timit(tmp_path: Path) -> None:
    nltk_sample(tmp_path / "timit")
    remote = uploaded(tmp_path / "timit", as_path("memory://test_layouts/timit"))
    for place in (tmp_path / "timit", tmp_path, str(remote)):
        first, second = open_corpus(place)
        assert (first.speaker, first.text, first.language) == ("fvmh0", "Burr.", "en") and second.speaker == "mcpm0"
        alignment = first.alignment()
        assert alignment is not None and alignment.extra == {"sex": "female", "dialect_region": "1"}
        assert [(p.label, p.start) for p in alignment.phones] == [
            (SILENCE, 0), ("B", 0.1), (SILENCE, 0.2), ("ER", 0.3)
        ]  # fmt: skip
        unfolded = open_corpus(place, phones=61)[1].alignment()
        assert unfolded is not None and [p.label for p in unfolded.phones] == [SILENCE, "bcl", "b", "q", "axr"]
        assert unfolded.extra["sex"] == "male"


def test_phones_are_those_of_timit(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=r"phones=39 .*TIMIT.*'folder'"):
        open_corpus(tmp_path, phones=39)


@pytest.mark.parametrize(("option", "expected"), [([], "ER"), (["--phones", "39"], "ER"), (["--phones", "61"], "axr")])
def test_the_option_keeps_the_labels(tmp_path: Path, option: list[str], expected: str) -> None:
    parser = argparse.ArgumentParser()
    add_corpus(parser, 10, "train")
    corpus, _ = corpus_of(parser.parse_args(["--audio", str(nltk_sample(tmp_path)), *option]))
    alignment = corpus[0].alignment()
    assert alignment is not None and alignment.phones[-1].label == expected


# Asterisk -----------------------------------------------------------------------------------------------------------

TEXTS = """; Core Asterisk Sounds in English

activated: Activated.
digits/1: one
letters/at: at [@]
beep: [this is a simple beep tone]
silence/1: (1 second of silence)
gone: This file is missing.
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    voice = tmp_path / "usr/share/asterisk/sounds/en_US_f_Allison"
    for name in ("activated", "digits/1", "letters/at", "beep", "silence/1", "unlisted"):
        path = voice / f"{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(0).bytes(800))
    doc = tmp_path / "usr/share/doc/asterisk-core-sounds-en"
    doc.mkdir(parents=True)
    (doc / "core-sounds-en.txt.gz").write_bytes(gzip.compress(TEXTS.encode("utf-8-sig")))
    return tmp_path


def test_asterisk_prompts(prompts: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = open_corpus(prompts)
    base = "usr/share/asterisk/sounds/en_US_f_Allison"
    assert facts(corpus) == [
        (f"{base}/activated", "Allison", "Activated.", "en"),
        (f"{base}/digits/1", "Allison", "one", "en"),
        (f"{base}/letters/at", "Allison", "at", "en"),
        (f"{base}/unlisted", "Allison", "", "en"),
    ]
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any("2 prompts" in line and "beep" in line for line in warned)
    assert any("1 prompts have no text" in line and "unlisted" in line for line in warned)
    for place, name in (
        (prompts / base, "activated"),
        (prompts / "usr/share/asterisk/sounds", "en_US_f_Allison/activated"),
    ):
        again = open_corpus(place)
        assert [recording.text for recording in again] == [recording.text for recording in corpus] and again[
            0
        ].id == name
        assert {recording.speaker for recording in again} == {"Allison"} and {
            recording.language for recording in again
        } == {"en"}


def test_asterisk_without_its_texts(prompts: Path) -> None:
    (texts,) = prompts.rglob("*.txt.gz")
    elsewhere = texts.rename(prompts.parent / "core-sounds-en.txt.gz")
    with pytest.raises(AudioError, match=r"texts.*texts="):
        asterisk(prompts)
    assert asterisk(prompts, texts=elsewhere)[0].text == "Activated."
    with pytest.raises(AudioError, match=r"no \.g722 files"):
        asterisk(prompts / "usr/share/doc")
    elsewhere.write_bytes(elsewhere.read_bytes()[:30])
    with pytest.raises(AudioError, match="broken gzip"):
        asterisk(prompts, texts=elsewhere)


def test_g722_needs_its_decoder(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "G722", None)
    with pytest.raises(MissingExtraError, match=r"pip install hooked-whisper\[g722\]"):
        open_corpus(prompts)[0].audio()


@pytest.mark.skipif(
    importlib.util.find_spec("G722") is None, reason="needs the extra: pip install hooked-whisper[g722]"
)
def test_g722_is_decoded(tmp_path: Path) -> None:
    from G722 import G722

    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.int16)
    path = tmp_path / "tone.g722"
    path.write_bytes(G722(16_000, 64_000).encode(tone))
    samples = load_audio(path)
    assert len(samples) == 16_000 and np.abs(np.fft.rfft(samples.numpy())).argmax() == 440
    assert abs(samples.abs().max() - 0.25) < 0.03
    assert torch.equal(load_part(path, 0.25, 0.75), samples[4_000:12_000])


# Common Voice and FLEURS --------------------------------------------------------------------------------------------

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"


def locale_of_common_voice(folder: Path, locale: str, column: bool = True) -> Path:
    for k in range(3):
        write_noise(folder / f"clips/common_voice_{locale}_{k}.mp3", 0.3)
    rows = [
        f'{k % 2}ab\tcommon_voice_{locale}_{k}.mp3\t"Say {k}!\t2\t0\t\t\t\t{locale if column else ""}\t\n'
        for k in range(3)
    ]
    write(folder / "validated.tsv", HEADER + "".join(rows))
    write(folder / "train.tsv", HEADER + rows[0])
    write(folder / "test.tsv", HEADER + rows[2])
    return folder


@pytest.mark.parametrize("column", [True, False])
def test_common_voice(tmp_path: Path, column: bool) -> None:
    folder = locale_of_common_voice(tmp_path / "cv/sv-SE", "sv-SE", column)
    corpus = open_corpus(folder)
    assert facts(corpus) == [(f"common_voice_sv-SE_{k}", f"{k % 2}ab", f'"Say {k}!', "sv") for k in range(3)]
    assert abs(len(corpus[0].audio()) - 4_800) < 100
    assert facts(open_corpus(folder / "train.tsv")) == facts(corpus)[:1]
    assert facts(common_voice(folder, ["test", "train"])) == [facts(corpus)[2], facts(corpus)[0]]
    with pytest.raises(AudioError, match="did you mean 'train'"):
        common_voice(folder, ["trian"])
    locale_of_common_voice(tmp_path / "cv/de", "de", column)
    assert [recording.language for recording in open_corpus(tmp_path / "cv")] == ["de"] * 3 + ["sv"] * 3
    (folder / "validated.tsv").unlink()
    assert facts(open_corpus(folder)) == [facts(corpus)[0], facts(corpus)[2]]
    with pytest.raises(AudioError, match="not laid out"):
        common_voice(tmp_path)
    remote = uploaded(folder, as_path(f"memory://test_layouts/{column}/sv-SE"))
    assert facts(open_corpus(str(remote))) == facts(open_corpus(folder))


def language_of_fleurs(folder: Path, audio: str = "audio/{split}") -> Path:
    for split, number in (("train", 1), ("dev", 2), ("test", 3)):
        write_noise(folder / audio.format(split=split) / f"{number}00.wav", 0.3)
        write(
            folder / f"{split}.tsv",
            f"{number}\t{number}00.wav\tDer Satz, Nr. {number}.\tder satz\td e r |\t4800\tMALE\n",
        )
    return folder


@pytest.mark.parametrize("audio", ["audio/{split}", "{split}", "audio"])
def test_fleurs(tmp_path: Path, audio: str) -> None:
    folder = language_of_fleurs(tmp_path / "data/cmn_hans_cn", audio)
    corpus = open_corpus(folder)
    assert facts(corpus) == [
        (f"cmn_hans_cn/{split}/{k}00", "", f"Der Satz, Nr. {k}.", "zh")
        for split, k in (("train", 1), ("dev", 2), ("test", 3))
    ]
    assert len(corpus[0].audio()) == 4_800
    assert facts(open_corpus(tmp_path)) == facts(open_corpus(tmp_path / "data")) == facts(corpus)
    assert facts(open_corpus(folder / "dev.tsv")) == facts(fleurs(folder, ["dev"])) == facts(corpus)[1:2]
    with pytest.raises(AudioError, match="did you mean 'test'"):
        fleurs(folder, ["tset"])
    for wav in folder.rglob("*.wav"):
        wav.unlink()
    with pytest.raises(AudioError, match=r"unpack audio/train\.tar\.gz"):
        open_corpus(folder)
    (folder / "dev.tsv").write_text("1\t100.wav\tx\tx\tx\t4800\tMALE\nbroken\n")
    write_noise(folder / "dev/100.wav")
    with pytest.raises(AudioError, match=r"dev\.tsv', line 2 has 1 columns"):
        fleurs(folder, ["dev"])


# Folders with a table of texts --------------------------------------------------------------------------------------


def test_metadata_of_an_audio_folder_is_read(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/c"):
        write_noise(tmp_path / f"{name}.wav")
    write(tmp_path / "train/metadata.csv", 'file_name,transcription,speaker_id\na.wav,"Yes, sir",7\nb.wav,no,8\n')
    write(tmp_path / "test/metadata.jsonl", '{"file_name": "c.wav", "text": "maybe", "language": "de"}\n')
    write(tmp_path / "train/b.txt", "beside")
    corpus = open_corpus(tmp_path)
    assert facts(corpus) == [
        ("test/c", "", "maybe", "de"),
        ("train/a", "7", "Yes, sir", ""),
        ("train/b", "8", "beside", ""),
    ]
    write(tmp_path / "train/metadata.csv", "file_name,text\na.wav,x,y\n")
    with pytest.raises(AudioError, match=r"metadata\.csv', line 2"):
        open_corpus(tmp_path)


def test_metadata_of_another_file_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_noise(tmp_path / "a.wav")
    write(tmp_path / "metadata.csv", "colour,size\nred,3\n")
    assert [recording.text for recording in open_corpus(tmp_path)] == [""] and "metadata.csv" in caplog.text


def test_lj_speech(tmp_path: Path) -> None:
    write_noise(tmp_path / "wavs/LJ001-0001.wav")
    write(tmp_path / "metadata.csv", "LJ001-0001|Nr. 1, printing|number one, printing\n")
    assert [(recording.id, recording.text) for recording in open_corpus(tmp_path)] == [
        ("wavs/LJ001-0001", "number one, printing")
    ]


def test_backslashes_in_a_manifest(tmp_path: Path) -> None:
    write_noise(tmp_path / "clips/a.wav")
    (recording,) = manifest(write(tmp_path / "list.csv", "path,text\nclips\\a.wav,hello\n"))
    assert recording.id == "clips/a" and len(recording.audio()) == 1600


# Times that belong to the audio -------------------------------------------------------------------------------------


def grid(origin: float) -> str:
    """Two seconds of a TextGrid that begins at ``origin``."""
    words = (Interval(0.5, 1.0, "tea"), Interval(1.0, 2.0, "pot"))
    content = to_textgrid(Alignment("", "", "", 2.0, words, ()))
    lines = []
    for line in content.split("\n"):
        head, _, value = line.partition(" = ")
        lines.append(f"{head} = {float(value) + origin!r}" if head.strip() in ("xmin", "xmax") else line)
    return "\n".join(lines)


@pytest.mark.parametrize("origin", [0.0, 5.0, -1.0, 3600.125])
def test_textgrid_with_a_nonzero_start(tmp_path: Path, origin: float) -> None:
    write_noise(tmp_path / "a.wav", 2.0)
    path = write(tmp_path / "a.TextGrid", grid(origin))
    for alignment in (open_corpus(tmp_path)[0].alignment(), read_alignment(path)):
        assert alignment is not None and alignment.duration == pytest.approx(2)
        times = [(word.start, word.end) for word in alignment.words]
        assert times == [pytest.approx((0.5, 1.0)), pytest.approx((1.0, 2.0))]


def test_a_textgrid_of_a_part_of_its_audio_keeps_its_times(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 8.0)
    write(tmp_path / "a.TextGrid", grid(5.0))
    alignment = open_corpus(tmp_path)[0].alignment()
    assert alignment is not None and [word.start for word in alignment.words] == [5.5, 6.0]


@pytest.mark.parametrize("name", ["a.TextGrid", "a.ctm", "a.wrd", "a.json"])
@pytest.mark.parametrize("audio", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_alignment_beyond_the_end_of_the_audio_is_refused(tmp_path: Path, name: str, audio: str) -> None:
    write_noise(tmp_path / audio, 1.0)
    content = {
        "a.TextGrid": grid(0.0),
        "a.ctm": "a 1 0.5 0.5 tea\na 1 1.0 1.0 pot\n",
        "a.wrd": "8000 16000 tea\n16000 32000 pot\n",
        "a.json": '[{"word": "tea", "start": 0.5, "end": 1}, {"word": "pot", "start": 1, "end": 2}]',
    }[name]
    write(tmp_path / name, content)
    table = write(tmp_path / "list.csv", f"path,alignment,start\n{audio},{name},\n{audio},{name},0.5\n")
    for recording in (*open_corpus(tmp_path, "folder"), *manifest(table)):
        with pytest.raises(AlignmentError, match=r"'pot'.*2\.00 s, but the audio lasts 1\.\d\d s"):
            recording.alignment()
    write_noise(tmp_path / audio, 1.95)
    for recording in (*open_corpus(tmp_path, "folder"), *manifest(table)):
        assert recording.alignment() is not None
