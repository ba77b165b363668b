"""Compare speed and memory with other libraries: ``make bench``, or ``python -m benchmarks.bench``.

    python -m benchmarks.bench [--size tiny base] [--rounds 15] [--threads 2] [--only GLOB ...] [--quick]

Ours, openai-whisper, transformers (fused and eager attention), nnsight and plain torch hooks run the same random
weights on the same input. They must first agree in their activations, then take turns in one process. The result is the
ratio of times. Writes the table into ``benchmarks/README.md`` and ``benchmarks/results.json``.
``--only`` runs single rows, such as ``--only 'greedy*' 'encoder, 30 s*'``, and writes nothing; ``--size`` and
``--rounds`` shorten it further.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import warnings
from typing import Any

import torch

from benchmarks.bench.agreement import check
from benchmarks.bench.cases import OURS, Case, cases
from benchmarks.bench.flops import gflop
from benchmarks.bench.machine import Others, machine
from benchmarks.bench.markdown import write_into
from benchmarks.bench.memory import measure_here, peak_of
from benchmarks.bench.models import make_models
from benchmarks.bench.passes import sections
from benchmarks.bench.table import README, RESULTS, rendered
from benchmarks.bench.timing import rows_of, take_turns
from benchmarks.bench.transcription import REAL, encoder_cases, real_cases

# memory is measured only for cases that cache something
KEEPING = ("one residual*", "every *", "one attention*")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", nargs="+", help="default: tiny base tiny.en (released weights, real text); toy with --quick"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clips", type=int, default=200, help="of 30 s, for harvests and scans")
    parser.add_argument(
        "--only", nargs="+", metavar="GLOB", help="cases to run; leaves out collection, scans and sweeps"
    )
    parser.add_argument(
        "--quick", action="store_true", help="smoke test: few rounds, no memory measurement, writes nothing"
    )
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "WHO"), help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        name, who = args.memory_of
        (case,) = [candidate for candidate in cases(make_models(args.size[0])) if candidate.name == name]
        print(json.dumps(measure_here(case, who)))
        return {}
    rounds, only = 3 if args.quick else args.rounds, args.only or ["*"]
    whole = not (args.quick or args.only)
    results: dict[str, Any] = {"machine": machine(args.threads), "rounds": rounds, "sizes": {}, "memory": {}}
    others = Others()
    sizes = args.size or (["toy"] if args.quick else ["tiny", "base", REAL])
    for size in sizes:
        selected = [
            candidate
            for candidate in (real_cases() if size == REAL else all_cases(size))
            if any(fnmatch.fnmatch(candidate.name, glob) for glob in only)
        ]
        if not selected:
            continue
        rows = results["sizes"][size] = []
        for case in selected:
            check(case)
            counted = {OURS: gflop(case.work[OURS])} if case.counted else None
            measured = [row.as_json() for row in rows_of(case, take_turns(case, rounds), counted)]
            rows += measured
            print(
                f"{size}, {case.name}:", ", ".join(f"{row['ratio']:.2f} {row['other']}" for row in measured), flush=True
            )
        if not args.quick and size == sizes[0]:
            results["memory"][size] = memory(size, selected)
    if whole:
        results["sections"], results["passes"] = sections(args)
    results["others_cores"] = others.cores()
    if whole:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_into(README, rendered(results))
    print(rendered(results))
    return results


def all_cases(size: str) -> list[Case]:
    models = make_models(size)
    return [*cases(models), *encoder_cases(models)]


def memory(size: str, cases: list[Case]) -> list[dict[str, Any]]:
    peaks = []
    for case in cases:
        if not any(fnmatch.fnmatch(case.name, pattern) for pattern in KEEPING):
            continue
        for who in case.work:
            if who == OURS or "bare" in who or "torch hook" in who or "nnsight" in who or "eager" in who:
                peak = peak_of(size, case.name, who)
                peaks += [{"case": case.name, "who": who} | peak] if peak else []
    return peaks


if __name__ == "__main__":
    main()
