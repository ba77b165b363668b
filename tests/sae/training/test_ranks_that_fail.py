"""``torchrun`` with a killed process, or with all told to stop, gives the weights of an undisturbed run, bit for
bit. The sum of two processes' gradients does not depend on their order, and with one thread each, nothing else
depends on timing.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sae_lens_audio import load_sae
from sae_lens_audio.activations import CollectOptions, collect_activations
from sae_lens_audio.training import read_metrics
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import RESID, corpus

TOML = """
[activations]
store = "{store}"
hook = "encoder.blocks.0"
held_out = 0.3
[sae]
architecture = "batchtopk"
d_sae = 64
k = 4
[training]
steps = 500
batch = 64
lr = 1e-3
[run]
folder = "unused"
checkpoint_s = 0.1
log_every = 10
"""
STEPS = 500


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    collect_activations(
        small_model(0), corpus(), RESID, folder / "store", CollectOptions(shard_rows=300), progress=False
    )
    (folder / "run.toml").write_text(TOML.format(store=folder / "store"))
    return folder / "run.toml"


@pytest.fixture(scope="module")
def undisturbed(settings: Path) -> dict[str, torch.Tensor]:
    out = settings.parent / "undisturbed"
    finished(started(settings, out))
    return weights(out)


def started(settings: Path, out: Path, restarts: int = 0) -> subprocess.Popen[str]:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    words = [sys.executable, "-m", *launch, "-m", "sae_lens_audio", "train", str(settings), "--threads", "1"]
    return subprocess.Popen([*words, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    return said


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_sae(out / "sae").sae.state_dict()


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    until = time.monotonic() + 240
    while not any(line["step"] >= step for line in read_metrics(out)):
        assert process.poll() is None and time.monotonic() < until, f"step {step} was not seen: {process.poll()}"
        time.sleep(0.005)


def rank_of(process: subprocess.Popen[str], rank: int) -> int:
    """The process that torchrun started as this rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pids = [pid for pid in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(pids[0])


def assert_same(out: Path, expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, expected[name]), name
    assert [line["step"] for line in read_metrics(out)] == list(range(10, STEPS + 1, 10))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again(
    rank: int, seed: int, settings: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    step = random.Random(10 * rank + seed).randrange(50, STEPS - 150)
    process = started(settings, tmp_path, restarts=1)
    wait_for_step(process, tmp_path, step)
    victim = rank_of(process, rank)
    subprocess.run(["kill", "-9", str(victim)], check=True)
    said = finished(process)
    assert "resuming after step" in said, said[-2000:]
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes(
    number: signal.Signals, settings: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """SIGTERM from a scheduler, or Ctrl-C: torchrun forwards it, and it reaches the processes at different steps."""
    process = started(settings, tmp_path)
    wait_for_step(process, tmp_path, random.Random(int(number)).randrange(50, STEPS - 150))
    process.send_signal(number)
    began = time.monotonic()
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and time.monotonic() - began < 20
    assert "stopped after step" in said and "Connection closed" not in said, said[-3000:]
    assert "resuming after step" in finished(started(settings, tmp_path))
    assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_stopping_one_rank_stops_all(settings: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    process = started(settings, tmp_path)
    wait_for_step(process, tmp_path, 200)
    subprocess.run(["kill", "-TERM", str(rank_of(process, 1))], check=True)
    said = process.communicate(timeout=60)[0]
    assert "stopped after step" in said, said[-3000:]
    finished(started(settings, tmp_path))
    assert_same(tmp_path, undisturbed)
