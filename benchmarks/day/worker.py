"""One side of one job, in a process that does nothing else: ``python -m benchmarks.day.worker JOB MODEL SIDE ...``."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.day import models
from benchmarks.day.jobs import JOBS, SIDES


def main(name: str, model_name: str, side: str, amount: str, threads: str, folder: str, out: str) -> None:
    torch.set_num_threads(int(threads))
    (which,) = [candidate for candidate in SIDES if candidate == side]
    work = JOBS[name].work(which)
    model = models.ours(model_name) if which == "ours" else models.openai(model_name)
    before = _peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(model, Path(folder), int(amount))
    measured = {
        "amount": int(amount),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": _peak_mib(),
        "loaded_mib": before,
        "fixed": result.pop("fixed", {}),
    }
    Path(out).write_text(json.dumps({"measured": measured, "result": result | {"amount": int(amount), "job": name}}))


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
