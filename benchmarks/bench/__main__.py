"""Everything side by side: ``make bench``, or ``python -m benchmarks.bench``.

    python -m benchmarks.bench [--size tiny base] [--rounds 15] [--threads 2] [--only GLOB] [--quick]

Ours, openai-whisper, transformers (fused and eager attention), nnsight and plain torch hooks, with the same random
weights and the same input, taking turns in one process. What counts is the ratio. Writes the table into
``benchmarks/README.md`` and ``benchmarks/results.json``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench.cases import OURS, Case, cases
from benchmarks.bench.machine import Others, machine
from benchmarks.bench.memory import measure_here, peak_of
from benchmarks.bench.models import make_models
from benchmarks.bench.passes import sections
from benchmarks.bench.table import rendered, write_into
from benchmarks.bench.timing import rows_of, take_turns

HERE = Path(__file__).parents[1]
# memory is asked of those that keep something
KEEPING = ("one residual*", "every *", "one attention*")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--size", nargs="+", default=["tiny", "base"])
    found.add_argument("--rounds", type=int, default=15)
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--clips", type=int, default=200, help="of 30 s, for harvests and scans")
    found.add_argument("--only", default="*", metavar="GLOB", help="cases; no harvests, scans and sweeps then")
    found.add_argument("--quick", action="store_true", help="few rounds, no memory, nothing written: does it run?")
    found.add_argument("--memory-of", nargs=2, metavar=("CASE", "WHO"), help=argparse.SUPPRESS)
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        name, who = args.memory_of
        (case,) = [one for one in cases(make_models(args.size[0])) if one.name == name]
        print(json.dumps(measure_here(case, who)))
        return {}
    rounds = 3 if args.quick else args.rounds
    results: dict[str, Any] = {"machine": machine(args.threads), "rounds": rounds, "sizes": {}, "memory": {}}
    others = Others()
    for size in args.size:
        chosen = [one for one in cases(make_models(size)) if fnmatch.fnmatch(one.name, args.only)]
        rows = results["sizes"][size] = []
        for case in chosen:
            found = [row.as_json() for row in rows_of(case, take_turns(case, rounds))]
            rows += found
            print(f"{size}, {case.name}:", ", ".join(f"{row['ratio']:.2f} {row['other']}" for row in found), flush=True)
        if not args.quick and size == args.size[0]:
            results["memory"][size] = memory(size, chosen)
    if args.only == "*" and not args.quick:
        results["sections"], results["passes"] = sections(args)
    results["others_cores"] = others.cores()
    if not args.quick and args.only == "*":
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        write_into(HERE / "README.md", rendered(results))
    print(rendered(results))
    return results


def memory(size: str, chosen: list[Case]) -> list[dict[str, Any]]:
    found = []
    for case in chosen:
        if not any(fnmatch.fnmatch(case.name, pattern) for pattern in KEEPING):
            continue
        for who in case.work:
            if who == OURS or "bare" in who or "torch hook" in who or "nnsight" in who or "eager" in who:
                peak = peak_of(size, case.name, who)
                found += [{"case": case.name, "who": who} | peak] if peak else []
    return found


if __name__ == "__main__":
    main()
