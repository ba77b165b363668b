"""Peak memory of each piece of work beyond the memory before it, measured in separate processes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from typing import Any

import torch

from benchmarks.bench.cases import Case
from benchmarks.process_memory import RETURNED_AT_ONCE, peak_reset, return_freed_memory, status_mib


def peak_of(size: str, case: str, who: str) -> dict[str, float] | None:
    """Return the MiB of the peak and of the cached tensors; ``None`` if the system does not report them."""
    if not sys.platform.startswith("linux"):
        return None
    command = [sys.executable, "-m", "benchmarks.bench", "--size", size, "--memory-of", case, who]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=RETURNED_AT_ONCE)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


@torch.no_grad()
def measure_here(case: Case, who: str) -> dict[str, float]:
    """Measure in this process, which must have done nothing else. A first run loads code and compiles kernels.

    Raises:
        RuntimeError: the peak is below the size of the cached tensors, so freed memory was reused.
    """
    case.work[who]()
    gc.collect()
    return_freed_memory()
    before = status_mib("VmRSS")
    peak_reset()
    result = case.work[who]()
    peak, new = status_mib("VmHWM") - before, _bytes(result, set()) / 2**20
    if peak < 0.9 * new - 4:
        raise RuntimeError(f"{case.name}, {who}: {new:.0f} MiB are kept, but only {peak:.0f} MiB were taken")
    return {"peak_mib": round(peak, 1), "kept_mib": round(new, 1)}


def _bytes(x: Any, seen: set[int]) -> int:
    """Return the bytes of the tensors' storages, counting each storage once."""
    if isinstance(x, torch.Tensor):
        storage = x.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if hasattr(x, "values"):
        return sum(_bytes(value, seen) for value in x.values())
    return sum(_bytes(value, seen) for value in x) if isinstance(x, list | tuple) else 0
