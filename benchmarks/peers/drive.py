"""Run implementations in separate processes that take turns, so that only one works at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.peers.case import Case
from hooked_whisper.errors import HookedWhisperError

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers"


@dataclass
class Worker:
    """log: output of the library. turns: seconds of every step, by turn. scores: by number of steps. cpu: CPU
    seconds since it was ready.
    """

    case: Case
    process: subprocess.Popen[str]
    log: Path
    versions: dict[str, str] = field(default_factory=dict)
    turns: list[list[float]] = field(default_factory=list)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    peak_mb: float = 0.0
    cpu: float = 0.0
    _cpu_before: float = 0.0

    @property
    def name(self) -> str:
        return self.case.implementation + (f", {self.case.variant}" if self.case.variant else "")

    @classmethod
    def start(cls, case: Case) -> Worker:
        folder = PEERS / case.implementation / "bin"
        python = sys.executable if case.implementation == "ours" else str(folder / "python")
        if not Path(python).exists():
            raise HookedWhisperError(f"no environment for {case.implementation}: `make bench-sae` makes it")
        threads = str(case.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [python, "-m", "benchmarks.peers.worker", json.dumps(asdict(case))]
        log, pipe = Path(case.data).with_name(f"{case.implementation}{case.variant}.log"), subprocess.PIPE
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=file
            )
        return cls(case, process, log)

    def wait_until_ready(self) -> None:
        answer = self._answer()
        self._cpu_before = answer.pop("cpu")
        self.versions = answer

    def steps(self, n: int) -> None:
        answer = self._ask({"steps": n})
        self.turns.append(answer["seconds"])
        self.peak_mb, self.cpu = answer["peak_mb"], answer["cpu"] - self._cpu_before

    def score(self) -> None:
        done = sum(map(len, self.turns))
        self.scores[done] = self._ask("score")

    def stop(self) -> None:
        """End the worker by closing its input."""
        if self.process.stdin and self.process.poll() is None:
            self.process.stdin.close()
        self.process.wait()

    def _ask(self, command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise HookedWhisperError(f"{self.name} ended with status {status}:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)


def take_turns(cases: list[Case], score_at: tuple[int, ...], per_turn: int, warm_up: int) -> dict[str, Any]:
    """Train all implementations in turns of a few steps, up to the largest number in ``score_at``.

    warm_up: untimed turns of each.
    """
    workers: list[Worker] = []
    try:
        for case in cases:
            workers.append(Worker.start(case))
            workers[-1].wait_until_ready()  # start one after the other: imports are heavy
        began, busy = time.monotonic(), _busy_seconds()
        done, turn, cpu = 0, 0, sum(os.times()[:2])
        with tqdm(total=max(score_at), desc=cases[0].architecture, unit="step", leave=False) as bar:
            while done < max(score_at):
                n = min([per_turn, *(point - done for point in score_at if point > done)])
                first = turn % len(workers)  # rotate the order
                for worker in workers[first:] + workers[:first]:
                    worker.steps(n)
                done, turn = done + n, turn + 1
                bar.update(n)
                if done in score_at:
                    for worker in workers:
                        worker.score()
        wall = time.monotonic() - began
        spent = sum(worker.cpu for worker in workers) + sum(os.times()[:2]) - cpu
        others = None if busy is None else max(0.0, (_busy_seconds() or 0.0) - busy - spent) / wall
    finally:
        for worker in workers:
            worker.stop()
    reference = [statistics.fmean(turn) for turn in workers[0].turns[warm_up:]]
    return {
        "architecture": cases[0].architecture,
        "dead": cases[0].dead,
        "others_used_cores": others,
        "implementations": [_summary(worker, reference, warm_up) for worker in workers],
    }


def _summary(worker: Worker, reference: list[float], warm_up: int) -> dict[str, Any]:
    counted = worker.turns[warm_up:]
    steps_per_s = 1 / statistics.median(second for turn in counted for second in turn)
    ratios = [statistics.fmean(turn) / ours for turn, ours in zip(counted, reference, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "name": worker.name,
        **worker.versions,
        "steps_per_s": steps_per_s,
        "activations_per_s": steps_per_s * worker.case.batch,
        "times_as_long": {"median": statistics.median(ratios), "quartiles": [quartiles[0], quartiles[-1]]},
        "peak_mb": worker.peak_mb,
        "scores": worker.scores,
        "seconds_by_turn": worker.turns,
    }


def _busy_seconds() -> float | None:
    """Return the CPU seconds of all processes on the machine; ``None`` without /proc/stat."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(x) for x in file.readline().split()[1:]]
    except OSError:
        return None
    return (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK")
