"""Compare speed on a CUDA device: ``make bench-cuda``, or ``python -m benchmarks.bench.cuda``; under five minutes.

    python -m benchmarks.bench.cuda [--size tiny base] [--rounds 15] [--minutes 4]

Ours, openai-whisper and transformers run the same random weights in float32, float16 and bfloat16, and take turns as in
``make bench``. In float32 they must agree first. Without a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.bench.agreement import check
from benchmarks.bench.cases import Case, Work, caching, forward
from benchmarks.bench.markdown import table
from benchmarks.bench.models import Models, make_models
from benchmarks.bench.table import HEAD, row_cells
from benchmarks.bench.timing import rows_of, take_turns

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 1e-3  # of float32
NO_DEVICE = "there is no CUDA device here (torch.cuda.is_available() is False): nothing was measured"
_IN_HALF = "In float16 and bfloat16, results are not compared before timing: each implementation rounds differently"


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["tiny", "base"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=4.0, help="no new case starts after this time")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print(NO_DEVICE)
        return []
    # TF32 would round the inputs of float32 products differently in each implementation
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return measure(args.size, torch.device("cuda"), args.rounds, args.minutes, torch.cuda.synchronize)


def measure(
    sizes: list[str], device: torch.device, rounds: int, minutes: float, wait: Callable[[], None]
) -> list[dict[str, Any]]:
    """Measure all cases, print their table, and return its rows.

    wait: waits for the device, before a time is taken.
    """
    start, rows = time.monotonic(), []
    for size in sizes:
        for dtype in DTYPES:
            for case in cases_on(make_models(size), device, dtype, wait):
                if time.monotonic() - start > 60 * minutes:
                    print(f"not measured after {minutes:g} minutes: {size}, {case.name}")
                    continue
                if dtype == torch.float32:
                    check(case, TOLERANCE)
                rows += [row.as_json() | {"size": size} for row in rows_of(case, take_turns(case, rounds))]
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}. {rounds} rounds. {_IN_HALF}.\n")
    print(table(("size", *HEAD[:-2]), [(row["size"], *row_cells(row)[:-2]) for row in rows]))
    return rows


def cases_on(m: Models, device: torch.device, dtype: torch.dtype, wait: Callable[[], None]) -> Iterator[Case]:
    """The forward passes, and one cached residual, with all models on the device."""
    moved = Models(
        m.ours.to(device, dtype),
        m.openai.to(device),  # its weights stay float32 and take the dtype of the input
        m.hf.to(device, dtype),
        m.eager.to(device, dtype),
        m.mel.to(device, dtype),
        m.tokens.to(device),
        m.encoded.to(device, dtype),
    )
    for case in [*forward(moved), caching(moved)[0]]:
        work = {name: _waiting(run, wait) for name, run in case.work.items() if "nnsight" not in name}
        yield replace(case, name=f"{case.name}, {str(dtype).removeprefix('torch.')}", work=work, counted=False)


def _waiting(run: Work, wait: Callable[[], None]) -> Work:
    def work() -> object:
        output = run()
        wait()
        return output

    return work


if __name__ == "__main__":
    main()
