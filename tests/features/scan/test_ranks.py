"""Several processes write the same bytes as one, also after one of them was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hooked_whisper.features.scan import scan
from tests.features.scan.test_scanner import NEURONS, OPTIONS, content, corpus
from tests.findings.worlds import small_model


def launch(n: int, folder: Path, *killed: int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    worker = ["-m", "tests.features.scan.rank_worker", str(folder), *map(str, killed)]
    return subprocess.run(
        [*start, "--max-restarts", str(restarts), *worker], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: more threads may sum in another order
    folder = tmp_path_factory.mktemp("whole")
    scan(small_model(0), corpus(), [NEURONS], folder, OPTIONS, progress=False)
    torch.set_num_threads(threads)
    return content(folder)


def test_two_processes_with_one_killed_write_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    done = launch(2, tmp_path / "scan", 1, 1, restarts=1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "killed").exists()
    assert content(tmp_path / "scan") == whole


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(3, 1), (1, 3), (3, 2), (2, 3)])
def test_another_number_of_processes_resumes(whole: dict[str, bytes], tmp_path: Path, first: int, then: int) -> None:
    folder = tmp_path / "scan"
    assert launch(first, folder, 0, 1).returncode != 0
    assert list(folder.glob("state-*")) and not (folder / "scan.json").exists()
    done = launch(then, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert content(folder) == whole


@pytest.mark.slow
def test_three_processes(whole: dict[str, bytes], tmp_path: Path) -> None:
    assert launch(3, tmp_path / "scan").returncode == 0
    assert content(tmp_path / "scan") == whole
