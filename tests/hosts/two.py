"""Two hosts on one machine: network namespaces joined by a virtual cable. Needs root and Debian's iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from hooked_whisper.errors import HookedWhisperError


class NoHosts(HookedWhisperError):
    """This machine lets nobody make network namespaces."""


@dataclass(frozen=True)
class Host:
    """``device``: its end of the cable."""

    name: str
    device: str
    address: str

    def popen(self, words: list[str]) -> subprocess.Popen[str]:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": self.device, "TP_SOCKET_IFNAME": self.device}
        inside = ["ip", "netns", "exec", self.name, *words]
        return subprocess.Popen(
            inside, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def pull_the_cable(self) -> None:
        _ip("-n", self.name, "link", "set", self.device, "down")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NoHosts(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Raises :class:`NoHosts` where they cannot be made."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None or os.geteuid() != 0:
        raise NoHosts("network namespaces need Linux, iproute2 and root")
    mark = uuid.uuid4().hex[:6]
    hosts = tuple(Host(f"hw-{mark}-{k}", f"hw{mark}{k}", f"10.77.0.{k + 1}") for k in range(2))
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        _ip("link", "add", hosts[0].device, "type", "veth", "peer", "name", hosts[1].device)
        for host in hosts:
            _ip("link", "set", host.device, "netns", host.name)
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
            for device in ("lo", host.device):
                _ip("-n", host.name, "link", "set", device, "up")
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)


def torchrun(host: Host, rank: int, first: Host, words: list[str], restarts: int = 0) -> subprocess.Popen[str]:
    """``words`` as this host's part of a job of two, one process on each."""
    rendezvous = ["--master-addr", first.address, "--master-port", "29533", "--max-restarts", str(restarts)]
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank)]
    return host.popen([*start, "--nproc-per-node", "1", *rendezvous, *words])
