"""Any place on disk opens as what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.corpora import open_corpus
from hooked_whisper.errors import AlignmentError, AudioError


def sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    return path


def test_layouts_are_recognised(tmp_path: Path) -> None:
    plain = sound(tmp_path / "plain/anna/a.wav").parents[1]
    libri = sound(tmp_path / "libri/LibriSpeech/dev-clean/12/34/12-34-0000.flac").parents[4]
    (libri / "LibriSpeech/dev-clean/12/34/12-34.trans.txt").write_text("12-34-0000 HELLO\n")
    timit = sound(tmp_path / "timit/DR1/FABC0/SA1.wav").parents[2]
    (timit / "DR1/FABC0/SA1.phn").write_text("0 4000 h#\n4000 8000 s\n")
    table = tmp_path / "list.csv"
    table.write_text("path,speaker\nplain/anna/a.wav,anna\n")
    corpora = [open_corpus(place) for place in (plain, libri, libri / "LibriSpeech", timit, table)]
    assert [c[0].id for c in corpora] == ["anna/a", "12-34-0000", "12-34-0000", "DR1/FABC0/SA1", "plain/anna/a"]
    assert [c[0].speaker for c in corpora] == ["", "12", "12", "FABC0", "anna"]
    assert open_corpus(plain, speaker_folders=True)[0].speaker == "anna"
    assert [p.label for p in corpora[3][0].alignment().phones] == ["SIL", "S"]
    assert open_corpus(libri / "LibriSpeech", "folder")[0].speaker == ""


def test_alignments_go_with_any_layout(tmp_path: Path) -> None:
    sound(tmp_path / "audio/a.wav")
    table = tmp_path / "list.jsonl"
    table.write_text('{"path": "audio/a.wav", "id": "a"}\n')
    times = tmp_path / "all.ctm"
    times.write_text("a 1 0.1 0.2 hello\n")
    for place in (tmp_path / "audio", table):
        (only,) = open_corpus(place, alignments=times)
        assert [w.label for w in only.alignment().words] == ["hello"]
    times.write_text("other 1 0.1 0.2 hello\n")
    with pytest.raises(AlignmentError):
        open_corpus(table, alignments=times)


def test_invalid_requests_are_refused(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(AudioError, match="there is no file or folder"):
        open_corpus(tmp_path / "nowhere")
    with pytest.raises(AudioError, match="did you mean 'manifest'"):
        open_corpus(tmp_path, "manifst")
    with pytest.raises(AudioError, match="no audio files"):
        open_corpus(tmp_path)
