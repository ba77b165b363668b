"""The machine that was measured on, and its load from other processes."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hooked_whisper.model.kernels import recurring_linear

# a window through the MLP of ``tiny``, and a product large enough for the machine's best
_PRODUCTS = {"1500x384x1536": (1500, 384, 1536), "2048^3": (2048, 2048, 2048)}
_PACKAGES = ("torch", "openai-whisper", "transformers", "nnsight", "ctranslate2", "numpy")


def machine(threads: int) -> dict[str, Any]:
    """Return processor, threads, versions, and the speed of matrix products."""
    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        name, _, value = line.partition(":")
        cpu.setdefault(name.strip(), value.strip())
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": threads,
        "vector": next((f for f in ("amx_tile", "avx512f", "avx2") if f in flags), platform.machine()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "gflops_of_products": {name: product_rate(*shape) for name, shape in _PRODUCTS.items()}
        | {f"{name} by oneDNN": product_rate(*shape, by=onednn) for name, shape in _PRODUCTS.items()},
    }


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    return recurring_linear(x, weight)


@torch.no_grad()
def product_rate(n: int, k: int, m: int, by: Callable[[Tensor, Tensor], Tensor] = F.linear) -> float:
    """Return the GFLOP/s of a float32 product ``[n, k] x [m, k]``, best of several runs."""
    x, weight = torch.randn(n, k), torch.randn(m, k)
    best = min(_seconds(lambda: by(x, weight)) for _ in range(max(4, int(3e10 / (2 * n * k * m)))))
    return round(2 * n * k * m / best / 1e9, 1)


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


@dataclass
class Others:
    """Average number of cores that other processes used since this object was created."""

    began: float = field(default_factory=time.monotonic)
    busy: float = field(default_factory=lambda: _busy())

    def cores(self) -> float:
        return round(max(0.0, (_busy() - self.busy) / (time.monotonic() - self.began)), 2)


def _busy() -> float:
    """Return the CPU seconds of all processes except this one and its children."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    values = [int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:9]]  # guest time is included in user time
    mine = os.times()
    whole = (sum(values) - values[3] - values[4]) / os.sysconf("SC_CLK_TCK")
    return whole - (mine.user + mine.system + mine.children_user + mine.children_system)
