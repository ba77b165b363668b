"""A data set in memory as a corpus: nothing is decoded before it is asked for, and not by ``datasets``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import Failure, Loader, fingerprint, from_dataset, split_by_speaker
from hooked_whisper.errors import AudioError, MissingExtraError
from tests.corpora.sounds import write_noise


def flac(seed: int) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(seed).uniform(-0.1, 0.1, 800), 16_000, format="FLAC")
    return stream.getvalue()


@pytest.fixture
def dataset() -> datasets.Dataset:
    rows = {
        "audio": [{"bytes": flac(k), "path": f"{k}.flac"} for k in range(4)] + [None, {"bytes": b"x", "path": None}],
        "sentence": ["Hello  you", None, "c", "d", "e", "f"],
        "who": [1, 2, 1, 2, 3, 3],
        "name": list("uvwxyz"),
    }
    # cast afterwards: from_dict would encode the rows again, for which it wants torchcodec
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())


def test_rows_are_recordings(dataset: datasets.Dataset) -> None:
    corpus = from_dataset(dataset, text="sentence", speaker="who", id="name")
    assert len(corpus) == 6 and [recording.id for recording in corpus] == list("uvwxyz")
    assert (corpus[0].text, corpus[1].text, corpus[0].speaker) == ("Hello you", "", "1")
    for k in range(4):
        assert torch.equal(corpus[k].audio(), load_audio(flac(k)))
    assert corpus[-1].id == "z" and [recording.id for recording in corpus[1:3]] == ["v", "w"]
    with pytest.raises(IndexError, match="index 6"):
        corpus[6]
    train, test = split_by_speaker(corpus)
    assert len(train) + len(test) == 6 and len(fingerprint(corpus)) == 64


def test_broken_rows_are_skipped_and_unnamed_rows_are_numbered(dataset: datasets.Dataset) -> None:
    corpus = from_dataset(dataset)
    assert [recording.id for recording in corpus] == list("012345") and {recording.speaker for recording in corpus} == {
        ""
    }
    items = list(Loader(corpus))
    assert [isinstance(recording, Failure) for recording in items] == [False] * 4 + [True] * 2
    assert isinstance(items[4], Failure) and "row 4 of the data set has no audio" in items[4].reason


def test_formats_selections_paths_and_arrays(dataset: datasets.Dataset, tmp_path: Path) -> None:
    corpus = from_dataset(dataset.select([2, 0]).with_format("numpy"), text="sentence", id="sentence")
    assert [recording.id for recording in corpus] == ["c", "Hello  you"] and torch.equal(
        corpus[0].audio(), load_audio(flac(2))
    )
    path = write_noise(tmp_path / "a.wav")
    paths = datasets.Dataset.from_dict({"file": [str(path)]})
    assert torch.equal(from_dataset(paths, "file")[0].audio(), load_audio(path))
    paths = paths.cast_column("file", datasets.Audio())
    assert torch.equal(from_dataset(paths, "file")[0].audio(), load_audio(path))
    arrays = datasets.Dataset.from_dict({"audio": [{"array": [0.0] * 800, "sampling_rate": 8000}]})
    assert len(from_dataset(arrays)[0].audio()) == 1600


def test_invalid_requests_are_refused(
    dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    with pytest.raises(AudioError, match=r"no column 'audoi' for audio.*did you mean 'audio'"):
        from_dataset(dataset, "audoi")
    with pytest.raises(AudioError, match="no column 'text'"):
        from_dataset(dataset, text="text")
    with pytest.raises(AudioError, match="streaming=False"):
        from_dataset(dataset.to_iterable_dataset())
    with pytest.raises(AudioError, match=r"several splits.*\['test'\]"):
        from_dataset(datasets.DatasetDict(test=dataset))
    with pytest.raises(AudioError, match="got list"):
        from_dataset([])
    with pytest.raises(AudioError, match="duplicate"):
        from_dataset(dataset, id="who")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"hooked-whisper\[datasets\]"):
        from_dataset(dataset)
