"""The corpus on disk: the same bytes after an interruption, complete splits, and damaged shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper.synthetic.__main__ import main
from hooked_whisper.synthetic.corpus import SPLITS, Corpus, build
from tests.synthetic.conftest import TINY


def shards(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if p.is_file() and p.name[0] != "." and p.suffix != ".json"
    }


def test_killed_and_resumed_gives_the_same_bytes(corpus_folder: Path, tmp_path: Path):
    """Delete a finished shard, damage another, and remove the end of the manifest; then build again."""
    broken = tmp_path / "world"
    shutil.copytree(corpus_folder, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    names = list(manifest["shards"])
    del manifest["shards"][names[-1]]
    (broken / "manifest.json").write_text(json.dumps(manifest))
    (broken / f"{names[0]}.npy").write_bytes(b"torn")
    modified = (broken / f"{names[1]}.npy").stat().st_mtime_ns
    build(broken, TINY, processes=1)
    assert shards(broken) == shards(corpus_folder)
    assert (broken / f"{names[1]}.npy").stat().st_mtime_ns == modified
    assert json.loads((broken / "manifest.json").read_text()) == json.loads(
        (corpus_folder / "manifest.json").read_text()
    )


def test_splits_have_their_sizes_and_speakers(corpus_folder: Path):
    total = {split: Corpus(corpus_folder, split) for split in SPLITS}
    assert [len(total[s]) for s in ("sentences", "speakers", "bigrams")] == [4, 4, 3]
    for corpus in total.values():
        for i in range(len(corpus)):
            alignment, audio = corpus.alignment(i), corpus.audio(i)
            assert alignment.text == corpus.texts[i] == " ".join(w.label for w in alignment.words)
            assert len(audio) == corpus.lengths[i] == round(alignment.duration * 16000)
            assert 0.02 < np.abs(audio).max() <= 1
    assert not set(total["train"].texts) & set(total["sentences"].texts)


def test_other_settings_need_another_folder(corpus_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["build", "--corpus", str(corpus_folder), "--utterances", "5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--corpus", str(tmp_path), "--run", str(tmp_path / "run")]) == 2
    assert main(["export", "--corpus", str(tmp_path), "--run", str(tmp_path), "--to", str(tmp_path / "x")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["error: there is no corpus", "error: there is no checkpoint"]
    with pytest.raises(ValueError, match="no split"):
        Corpus(tmp_path, "dev")
