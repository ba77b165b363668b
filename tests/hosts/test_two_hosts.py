"""Harvest, scan and training over two hosts, and what happens when one of them is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sae_lens_audio import load_sae
from tests.endurance.commands import command, content, make_input, run
from tests.hosts.two import Host, NoHosts, torchrun, two_hosts

Pair = tuple[Host, Host]


@pytest.fixture
def hosts() -> Iterator[Pair]:
    try:
        with two_hosts() as pair:
            yield pair
    except NoHosts as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    make_input(folder)
    return folder


def both(hosts: Pair, words: list[str]) -> list[subprocess.Popen[str]]:
    # without the interpreter, which torchrun starts itself
    return [torchrun(host, rank, hosts[0], words[1:]) for rank, host in enumerate(hosts)]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said[-3000:]


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("what", ["collect", pytest.param("scan", marks=pytest.mark.slow)])
def test_two_hosts_write_the_same_bytes_as_one_process(hosts: Pair, folder: Path, tmp_path: Path, what: str) -> None:
    run(command(what, folder, tmp_path / "one"))
    finish(both(hosts, command(what, folder, tmp_path / "two")))
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["collect", "scan"])
def test_two_hosts_resume_after_one_is_lost(hosts: Pair, folder: Path, tmp_path: Path, what: str) -> None:
    seconds = run(command(what, folder, tmp_path / "one"))
    processes = both(hosts, command(what, folder, tmp_path / "two"))
    time.sleep(1.5 * seconds)
    kill(processes[1])
    kill(processes[0])
    finish(both(hosts, command(what, folder, tmp_path / "two")))
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.slow
def test_training_on_two_hosts(hosts: Pair, folder: Path, tmp_path: Path) -> None:
    """The weights of two processes on one host; stopped in the middle and started again too."""
    if not (folder / "store").exists():
        run(command("collect", folder, folder / "store"))
    run(command("train", folder, tmp_path / "one", ranks=2))
    finish(both(hosts, command("train", folder, tmp_path / "two")))
    processes = both(hosts, command("train", folder, tmp_path / "again"))
    until = time.monotonic() + 120
    while not (tmp_path / "again" / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.05)
    for process in reversed(processes):
        kill(process)
    finish(both(hosts, command("train", folder, tmp_path / "again")))
    expected = load_sae(tmp_path / "one" / "sae").sae.state_dict()
    for out in ("two", "again"):
        for name, tensor in load_sae(tmp_path / out / "sae").sae.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_lost_network_connection_is_an_error(hosts: Pair, tmp_path: Path) -> None:
    """Nobody waits without end for a host that vanished: here ten seconds, in training ten minutes."""
    words = ["-m", "tests.hosts.cable_worker", str(tmp_path)]
    processes = [torchrun(host, rank, hosts[0], words) for rank, host in enumerate(hosts)]
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    hosts[1].pull_the_cable()
    try:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("gave-up-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(list(tmp_path.glob("gave-up-*"))) == 2
    finally:
        for process in processes:
            kill(process)
