"""Time a user's day: whole jobs, ours and as a short script with openai-whisper does them.

    python -m benchmarks.day [--only JOB ...] [--model tiny.en base] [--size quick|quarter|full] [--again]

The obvious scripts are ``benchmarks/day/obvious_*.py``; they must give the same result on the part that both run. Every
side of every job is a process, measured once and saved at once: a run that was stopped is resumed. Writes
``benchmarks/day.json`` and the table in ``benchmarks/README.md``; ``--size quick`` is a smoke test and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

from benchmarks.bench.machine import machine
from benchmarks.day.jobs import JOBS, SIDES, Job, Size
from benchmarks.day.settings import CLIPS
from benchmarks.day.speech import write_speech
from benchmarks.day.table import README, RESULTS, ratio, rendered, write_into


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="JOB")
    parser.add_argument("--model", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure again what was measured before")
    parser.add_argument("--work", type=Path, help="folder for speech and results (default: a temporary one)")
    return parser


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parser().parse_args(argv)
    results = _before(args.size) if args.size != "quick" else _empty(args.size)
    results["machine"] = machine(args.threads)
    selected = [JOBS[name] for name in args.only]
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        write_speech(work, *_amounts(selected, args.size))
        for model in args.model:
            for job in selected:
                key = f"{job.name}/{model}"
                if key not in results["jobs"] or args.again:
                    entry = results["jobs"][key] = measure(job, model, args.size, args.threads, work)
                    wall, cpu = ratio(job.name, entry), ratio(job.name, entry, "cpu_seconds")
                    print(f"{key}: {wall:.2f} times faster ({cpu:.2f} by CPU time); {entry['agree']}", flush=True)
                    if args.size != "quick":
                        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if args.size != "quick":
        write_into(README, rendered(results))
    print(rendered(results))
    return results


def measure(job: Job, model: str, size: Size, threads: int, work: Path) -> dict[str, Any]:
    """Run both sides and compare their results.

    Raises:
        RuntimeError: a side failed.
        AssertionError: the results differ.
    """
    entry: dict[str, Any] = {}
    outputs = []
    for side in SIDES:
        out = work / "result.json"
        amount = str(job.amount(size, side))
        command = [sys.executable, "-m", "benchmarks.day.worker", job.name, model, side, amount, str(threads)]
        done = subprocess.run([*command, str(work), str(out)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{job.name}, {model}, {side}: {done.stderr[-2000:]}")
        written = json.loads(out.read_text())
        entry[side] = written["measured"]
        outputs.append(written["result"])
    entry["agree"] = job.agree(*outputs)
    return entry


def _amounts(jobs: list[Job], size: Size) -> tuple[int, int, int]:
    """Return the number of short files, windows and pairs that the jobs read."""
    most = {job.name: max(job.amounts[size]) for job in jobs}
    pages = CLIPS if "pages" in most else 0
    files = max(most.get("transcribe", 0), most.get("findings", 0))
    return files, max(most.get("scan", 0), most.get("sae", 0), pages), most.get("patch", 0)


def _before(size: str) -> dict[str, Any]:
    """Return the results so far, if they are of this size."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results if results.get("size") == size else _empty(size)


def _empty(size: str) -> dict[str, Any]:
    return {"size": size, "jobs": {}}


if __name__ == "__main__":
    main()
