"""Manifests: what columns may be called, parts of files, ids, and tables that are broken."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import Failure, Loader, manifest
from hooked_whisper.errors import AudioError
from hooked_whisper.protocols import Interval
from tests.corpora.sounds import write_noise


def table(folder: Path, content: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def test_csv_with_quotes_newlines_and_separators(tmp_path: Path) -> None:
    write_noise(tmp_path / "clips/a.wav")
    content = 'id,path,text,speaker\r\n1,clips/a.wav,"She said ""no"",\r\nthen left",s1\r\n\r\n2,clips/b.wav,,\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        first, second = manifest(table(tmp_path, content, encoding=encoding))
        assert (first.id, first.text, first.speaker) == ("1", 'She said "no", then left', "s1")
        assert (second.id, second.text, second.speaker, second.alignment()) == ("2", "", "", None)
        assert torch.equal(first.audio(), load_audio(tmp_path / "clips/a.wav"))


def test_tsv_of_common_voice_has_no_quotes(tmp_path: Path) -> None:
    content = 'client_id\tpath\tsentence\nx\ta.mp3\t"Go," he said\ny\tb.mp3\tan "open quote\n'
    first, second = manifest(table(tmp_path, content, "dev.tsv"), root=tmp_path / "clips")
    assert (first.id, first.speaker, first.text) == ("a", "x", '"Go," he said') and second.text == 'an "open quote'
    assert first.path == str(tmp_path / "clips/a.mp3")


def test_jsonl_of_nemo(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.wav", 1.0)
    rows = [
        {"audio_filepath": "a.wav", "duration": 1.003, "text": "all"},
        {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "text": "part", "speaker_id": 7},
        {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5},
    ]
    corpus = manifest(table(tmp_path, "\n\n".join(map(json.dumps, rows)), "list.jsonl"))
    assert [recording.id for recording in corpus] == ["a", "a@0.25-0.75", "a@0.25-0.75#2"]
    assert [len(recording.audio()) for recording in corpus] == [16_000, 8_000, 8_000]
    assert corpus[1].speaker == "7"
    whole = load_audio(tmp_path / "a.wav")
    assert torch.equal(corpus[1].audio(), whole[4_000:12_000])


def test_parts_of_other_rates_channels_and_formats(tmp_path: Path) -> None:
    for ending in ("wav", "flac", "ogg", "mp3"):
        write_noise(tmp_path / f"a.{ending}", 2.0, rate=44_100)
    lines = "".join(f"a.{ending},0.5,1.25\na.{ending},1.5,\n" for ending in ("wav", "flac", "ogg", "mp3"))
    corpus = manifest(table(tmp_path, "path,start,end\n" + lines))
    for part, end in zip(corpus[::2], corpus[1::2], strict=True):
        assert len(part.audio()) == 12_000 and abs(len(end.audio()) - 8_000) < 2_000  # mp3 pads its end
        whole = load_audio(part.path)[8_000:20_000]
        # away from the edges, where the resampler sees the rest of the file or not
        torch.testing.assert_close(part.audio()[500:-500], whole[500:-500], atol=2e-3, rtol=0)


def test_part_beyond_the_file_is_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.flac", 1.0)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:10_000])
    (tmp_path / "text.flac").write_text("no audio")
    parts = "a.flac,0.5,1.005 a.flac,0.5,1.2 a.flac,1.5,2 cut.flac,0.5,0.9 text.flac,0,1 gone.flac,0,1"
    content = "path,start,end\n" + parts.replace(" ", "\n")
    items = list(Loader(manifest(table(tmp_path, content))))
    reasons = [item.reason if isinstance(item, Failure) else f"{len(item.samples)}" for item in items]
    expected = ["8000", "from 0.5 to 1.2 s is not inside", "is not inside", "cut.flac", "known format", "not exist"]
    for reason, word in zip(reasons, expected, strict=True):
        assert word in reason


def test_alignments_of_files_are_cut_to_their_parts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '[{"word": "one", "start": 0.1, "end": 0.4}, {"word": "two", "start": 0.5, "end": 1}]'
    )
    content = "path,alignment,start,end,text,speaker\na.wav,a.json,,,,s\na.wav,a.json,0.45,2,Two!,\na.wav,,0,1,,\n"
    whole, part, none = manifest(table(tmp_path, content))
    alignment = whole.alignment()
    assert alignment is not None and (alignment.text, alignment.speaker, alignment.utterance) == ("one two", "s", "a")
    alignment = part.alignment()
    assert alignment is not None and alignment.text == "Two!" and alignment.utterance == part.id
    assert alignment.words == (Interval(0.5 - 0.45, 1 - 0.45, "two"),) and alignment.duration == pytest.approx(0.55)
    assert none.alignment() is None


def test_custom_column_names(tmp_path: Path) -> None:
    path = table(tmp_path, "where,id,normalised,text\na.wav,1,yes,YES\n")
    (recording,) = manifest(path, columns={"path": "where", "text": "normalised"})
    assert recording.text == "yes" and recording.path == str(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=r"no column 'normalized' for text.*did you mean 'normalised'"):
        manifest(path, columns={"path": "where", "text": "normalized"})
    with pytest.raises(AudioError, match=r"'spaeker'.*did you mean 'speaker'"):
        manifest(path, columns={"spaeker": "x"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "path\n", "no recordings"),
        ("a.jsonl", "\n", "no recordings"),
        ("a.csv", "pth,text\na.wav,x\n", "line 1: no column for the audio file.*'pth' meant to be 'path'"),
        ("a.csv", "x,y\na.wav,x\n", "line 1: no column.*columns="),
        ("a.csv", "path,path\na,b\n", "line 1: the column 'path' is repeated"),
        ("a.csv", "path,text\na.wav,x,y\n", "line 2 has 3 columns, the header 2"),
        ("a.csv", "path,text\na.wav\n", "line 2 has 1 columns"),
        ("a.csv", "path,text\na.wav,x\n,y\n", "line 3, column 'path': the row names no audio"),
        ("a.csv", 'path,text\na.wav,"open\n', "line 2: unexpected end"),
        ("a.csv", 'path,text\na.wav,"a"b\n', "line 2.*quotes"),
        ("a.csv", "path,start\na.wav,soon\n", "line 2, column 'start': expected seconds.*'soon'"),
        ("a.csv", "path,start\na.wav,-1\n", "line 2, column 'start'"),
        ("a.csv", "path,offset,duration\na.wav,1,nan\n", "line 2, column 'duration'"),
        ("a.csv", "path,start,end\na.wav,2,1\n", "line 2, column 'end': the part ends at 1 s"),
        ("a.csv", "path,id\na.wav,1\nb.wav,1\n", "line 3: the id '1' .*line 2"),
        ("a.jsonl", '{"path": "a.wav"}\n{"path": \n', "line 2 is not JSON"),
        ("a.jsonl", '["a.wav"]\n', "line 1 is not an object"),
        ("a.jsonl", '{"path": "a.wav"}\n{"text": "x"}\n', "line 2, column 'path': the row names no audio"),
        ("a.jsonl", '{"path": ["a.wav"]}\n', "line 1, column 'path': expected text"),
        ("a.jsonl", '{"path": "a.wav", "text": true}\n', "line 1, column 'text': expected text"),
        ("a.jsonl", '{"path": "a.wav", "start": true}\n', "line 1, column 'start'"),
        ("a.txt", "a.wav\n", "the ending must be one of"),
        ("a.wav", "", "for a recording, give the folder that holds it"),
    ],
)
def test_broken_tables_name_file_line_and_column(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(AudioError, match=rf"{name}.*{message}"):
        manifest(table(tmp_path, content, name))


def test_other_encodings_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"line 3.*UTF-8"):
        manifest(table(tmp_path, "path,text\na.wav,x\nb.wav,é\n", encoding="latin-1"))
    with pytest.raises(AudioError, match="cannot be read"):
        manifest(tmp_path / "gone.csv")


TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_any_text_survives_csv_and_jsonl(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    with (tmp_path / "x.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "text", "speaker"], *(["a.wav", *row] for row in rows)])
    lines = [json.dumps({"file": "a.wav", "text": text, "speaker": speaker}) for text, speaker in rows]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("x.csv", "x.jsonl"):
        corpus = manifest(tmp_path / name)
        assert [(recording.text, recording.speaker) for recording in corpus] == [
            (" ".join(t.split()), s.strip()) for t, s in rows
        ]
        assert len({recording.id for recording in corpus}) == len(rows)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_corpus_or_an_audio_error(tmp_path: Path, junk: bytes) -> None:
    for name in ("x.csv", "x.tsv", "x.jsonl"):
        (tmp_path / name).write_bytes(b"path\n" + junk if name != "x.jsonl" else junk)
        try:
            assert len(manifest(tmp_path / name))
        except AudioError as error:
            assert name in str(error)


@pytest.mark.parametrize("place", [".", "/", "./"])
def test_folder_is_not_an_audio_file(tmp_path: Path, place: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{place}\n")
    with pytest.raises(AudioError, match="names no audio file"):
        manifest(table)
