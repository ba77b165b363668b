"""Several processes write the same bytes as one, also after one of them was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hooked_whisper.errors import CheckpointError
from sae_lens_audio.activations import open_store
from tests.sae.activations.rank_worker import run


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def launch(n: int, folder: Path, *killed: int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    worker = ["-m", "tests.sae.activations.rank_worker", str(folder), *map(str, killed)]
    return subprocess.run(
        [*start, "--max-restarts", str(restarts), *worker], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums may be taken in another order with more
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    torch.set_num_threads(threads)
    return content(folder)


def test_parts_are_joined_into_one_store(whole: dict[str, bytes], tmp_path: Path) -> None:
    store = run(tmp_path)
    assert sorted({name.split("/")[0] for name in whole}) == ["manifest.json", *(f"part-{k:05d}" for k in range(5))]
    assert [recording.id for recording in store.recordings] == [f"clip-{k:02d}" for k in range(14)]
    rows = store.read(store.hooks)
    assert len(rows) == store.rows == sum(recording.rows for recording in store.recordings)
    assert rows.recording.unique().tolist() == list(range(14))
    # the order within two shards of one number is not the same
    first, second = (store.shard(k).chunk(store.hooks).position[:15].tolist() for k in (0, store.n_shards // 2))
    assert first != second


def test_two_processes_write_the_same_bytes_as_one_even_if_one_is_killed(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    done = launch(2, tmp_path / "store", 1, 2, restarts=1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "killed").exists()
    assert content(tmp_path / "store") == whole


def test_missing_shards_are_named_and_rewritten(whole: dict[str, bytes], tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is not complete: some parts"):
        open_store(tmp_path)
    shards = sorted(tmp_path.glob("part-*/shard-*"))
    shards[3].unlink()
    shards[0].write_bytes(b"?" * 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(tmp_path)
    torch.set_num_threads(threads)
    assert sorted(content(tmp_path)) == sorted(whole)
    open_store(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(3, 1), (1, 3), (3, 2), (2, 3)])
@pytest.mark.parametrize("files", [1, 2, 3])
def test_another_number_of_processes_resumes(
    whole: dict[str, bytes], tmp_path: Path, first: int, then: int, files: int
) -> None:
    folder = tmp_path / "store"
    assert launch(first, folder, 0, files).returncode != 0
    assert not (folder / "manifest.json").exists()
    done = launch(then, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert content(folder) == whole
