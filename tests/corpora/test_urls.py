"""The same corpora behind URLs: listed, read, named as they are on the disk."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fsspec.implementations.memory import MemoryFileSystem

from hooked_whisper._support.storage import AnyPath, as_path
from hooked_whisper.audio import load_audio
from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of
from hooked_whisper.corpora import Failure, Loader, Recording, open_corpus
from hooked_whisper.errors import AudioError

GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "tea"
"""


def sound(path: Path, seed: int, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))
    soundfile.write(path, noise, 16000, format="WAV" if path.suffix.lower() == ".wav" else None)


def folder(place: Path) -> None:
    for k, name in enumerate(("anna/one.wav", "anna/two.flac", "ben/one.wav", ".hidden/no.wav")):
        sound(place / name, k)
    (place / "anna/one.txt").write_text("some tea")
    (place / "anna/one.TextGrid").write_text(GRID)
    (place / "ben/.two.wav").write_bytes(b"hidden")


def librispeech(place: Path) -> None:
    for k in range(3):
        sound(place / f"LibriSpeech/dev-clean/12/{k % 2}/12-{k % 2}-000{k}.flac", k)
    (place / "LibriSpeech/dev-clean/12/0/12-0.trans.txt").write_text("12-0-0000 TEA\n12-0-0002 RUG\n")
    (place / "LibriSpeech/dev-clean/12/1/12-1.trans.txt").write_text("12-1-0001 CAT\n")


def timit(place: Path) -> None:
    sound(place / "TRAIN/DR1/FABC0/SA1.WAV", 1)
    (place / "TRAIN/DR1/FABC0/SA1.TXT").write_text("0 8000 Some tea.")
    (place / "TRAIN/DR1/FABC0/SA1.PHN").write_text("0 8000 iy\n")


def table(place: Path) -> None:
    sound(place / "audio/long.wav", 1, 2.0)
    (place / "list.csv").write_text("path,start,end,text\naudio/long.wav,0.5,1,tea\naudio/long.wav,,,all\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "folder": folder, "librispeech": librispeech, "timit": timit, "manifest": table
}  # fmt: skip


def uploaded(source: Path, place: AnyPath) -> AnyPath:
    for path in source.rglob("*"):
        if path.is_file():
            target = place / path.relative_to(source).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return place


def facts(recording: Recording) -> tuple[object, ...]:
    alignment = recording.alignment()
    return recording.id, recording.speaker, recording.text, alignment and (alignment.words, alignment.phones)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_corpus_behind_an_url_is_the_same(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path)
    place = uploaded(tmp_path, as_path(f"memory://test_urls/{layout}"))
    inner = "list.csv" if layout == "manifest" else ""
    near = open_corpus(tmp_path / inner, speaker_folders=True)
    far = open_corpus(str(place / inner) if inner else str(place), speaker_folders=True)
    assert len(near) and [facts(recording) for recording in far] == [facts(recording) for recording in near]
    for a, b in zip(near, far, strict=True):
        assert torch.equal(a.audio(), b.audio())
        assert b.path.startswith("memory://") and Path(a.path).name == b.path.rsplit("/", 1)[1]


def test_a_table_may_name_urls(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0)
    uploaded(tmp_path, as_path("memory://test_urls/named"))
    (tmp_path / "list.jsonl").write_text('{"path": "memory://test_urls/named/a.wav", "id": "far"}\n{"path": "a.wav"}\n')
    far, near = open_corpus(tmp_path / "list.jsonl")
    assert torch.equal(far.audio(), near.audio()) and far.id == "far"


def test_missing_url_is_an_error() -> None:
    with pytest.raises(AudioError, match=r"memory://test_urls/nowhere"):
        open_corpus("memory://test_urls/nowhere")
    with pytest.raises(AudioError, match=r"memory://test_urls/gone.wav.* does not exist"):
        load_audio("memory://test_urls/gone.wav")
    as_path("memory://test_urls/broken.wav").write_bytes(b"no sound")
    (only,) = Loader([Recording("x", as_path("memory://test_urls/broken.wav"))])
    assert isinstance(only, Failure) and "known format" in only.reason


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails for some files, as clients of object stores say it: not by an OSError."""
    whole = {name: getattr(MemoryFileSystem, name) for name in ("_open", "cat_file")}

    def failing(name: str) -> Callable[..., Any]:
        def call(self: MemoryFileSystem, path: str, mode: Any = "rb", *args: Any, **more: Any) -> Any:
            if "broken" in path and mode != "wb":
                raise RuntimeError("EndpointConnectionError: no route to the store")
            return whole[name](self, path, mode if name == "_open" else None, *args, **more)

        return call

    for name in whole:
        monkeypatch.setattr(MemoryFileSystem, name, failing(name))


def test_failed_download_is_reported_with_its_reason(tmp_path: Path, broken: None) -> None:
    table(tmp_path)
    sound(tmp_path / "audio/broken.wav", 2)
    (tmp_path / "list.csv").write_text(
        "path,start,end\naudio/long.wav,,\naudio/broken.wav,,\naudio/broken.wav,0.1,0.3\n"
    )
    uploaded(tmp_path, as_path("memory://test_urls/place"))
    good, *bad = Loader(open_corpus("memory://test_urls/place/list.csv"))
    assert not isinstance(good, Failure)
    for url in bad:
        assert isinstance(url, Failure) and url.path == "memory://test_urls/place/audio/broken.wav"
        assert re.search(
            r"memory://test_urls/place/audio/broken.wav.* cannot be fetched: EndpointConnectionError", url.reason
        )
    as_path("memory://test_urls/place/broken.csv").write_bytes(b"path\n")
    with pytest.raises(AudioError, match=r"place/broken.csv.* cannot be read: EndpointConnectionError"):
        open_corpus("memory://test_urls/place/broken.csv")


@pytest.mark.parametrize("layout", ["folder", "librispeech", "timit"])
def test_nested_folders_are_listed(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many folders there are: an object store answers with a thousand names at a time."""
    asked, listed, find = [], [0], MemoryFileSystem.find

    def counted(self: MemoryFileSystem, *args: Any, **more: Any) -> Any:
        listed[0] += 1
        return find(self, *args, **more)

    monkeypatch.setattr(MemoryFileSystem, "find", counted)
    for copies in (1, 4):
        for copy in range(copies):
            LAYOUTS[layout](tmp_path / f"{copies}" / ("" if layout != "folder" else f"{copy}"))
        if layout == "librispeech" and copies == 4:
            for speaker in range(20, 40):
                sound(tmp_path / f"4/LibriSpeech/dev-clean/{speaker}/0/{speaker}-0-0000.flac", speaker)
        if layout == "timit" and copies == 4:
            for speaker in range(20):
                sound(tmp_path / f"4/TRAIN/DR2/F{speaker}/SA1.WAV", speaker)
        place = uploaded(tmp_path / f"{copies}", as_path(f"memory://test_urls/tree/{layout}{copies}"))
        listed[0] = 0
        open_corpus(str(place))
        asked.append(listed[0])
    assert asked[0] == asked[1] <= 3


def test_links_to_subsets_on_another_disk_are_followed(tmp_path: Path) -> None:
    librispeech(tmp_path / "disk")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/dev-clean").symlink_to(tmp_path / "disk/LibriSpeech/dev-clean")
    assert [recording.id for recording in open_corpus(tmp_path / "corpus", "librispeech")] == [
        "12-0-0000",
        "12-0-0002",
        "12-1-0001",
    ]


def test_recordings_behind_urls_are_cheap_and_travel(tmp_path: Path) -> None:
    table(tmp_path)
    place = uploaded(tmp_path, as_path("memory://test_urls/travel"))
    for recording in open_corpus(str(place / "list.csv")):
        again = pickle.loads(pickle.dumps(recording))
        assert (
            again.path == recording.path
            and torch.equal(again.audio(), recording.audio())
            and len(pickle.dumps(recording)) < 2000
        )


def test_file_urls_are_paths(tmp_path: Path) -> None:
    folder(tmp_path)
    near, far = open_corpus(tmp_path), open_corpus(f"file://{tmp_path}")
    assert [facts(recording) for recording in near] == [facts(recording) for recording in far] and [
        r.path for r in near
    ] == [r.path for r in far]


def test_a_remote_table_names_its_own_folder_and_this_machine(tmp_path: Path) -> None:
    sound(tmp_path / "near.wav", 0)
    sound(tmp_path / "up/far.wav", 1)
    place = uploaded(tmp_path / "up", as_path("memory://test_urls/mixed"))
    (place / "list.csv").write_text(f"path,id\nfar.wav,far\n{tmp_path / 'near.wav'},near\n")
    far, near = open_corpus(str(place / "list.csv"))
    assert (far.path, near.path) == ("memory://test_urls/mixed/far.wav", str(tmp_path / "near.wav"))
    assert len(far.audio()) == len(near.audio()) == 8000


def test_option_accepts_a_url(tmp_path: Path) -> None:
    folder(tmp_path)
    uploaded(tmp_path, as_path("memory://test_urls/option"))
    parser = argparse.ArgumentParser()
    add_corpus(parser, 10, "train")
    corpus, what = corpus_of(parser.parse_args(["--audio", "memory://test_urls/option", "--speaker-folders"]))
    assert what == "3 recordings of option" and [recording.speaker for recording in corpus] == ["anna", "anna", "ben"]
