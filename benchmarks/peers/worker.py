"""Run one implementation in a separate process: train on request, report the time of each step.

    python -m benchmarks.peers.worker '{"implementation": "ours", ...}'     (a Case as JSON; the driver does this)

Commands and answers are JSON lines. Each library runs its own loop. When the loop requests the next batch, the
:class:`Feed` stops the clock of the previous step, waits for the driver, and starts the clock of the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.case import Case
from benchmarks.process_memory import peak_reset, status_mib

PACKAGES = {
    "ours": "hooked-whisper",
    "sae-lens": "sae-lens",
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
}
Score = Callable[[Tensor], tuple[Tensor, Tensor]]


class Finished(BaseException):
    """The driver needs no more steps. A BaseException, so that no library catches it."""


class Feed:
    """Batches, always in the same order. An adapter sets ``score`` and, if needed, ``before_step``.

    score: rows -> their reconstruction, and the number of rows in which each feature is active, as in training.
    before_step: called before each step, untimed.
    encoder: returns ``W_enc [d_in, d_sae]`` and the encoder's bias, for ``Case.quiet``.
    """

    def __init__(self, case: Case, rows: Tensor, commands: TextIO, answers: TextIO) -> None:
        self.case, self._commands, self._answers = case, commands, answers
        n = (len(rows) - case.held_out) // case.batch
        self.rows = rows[: n * case.batch].to(case.device)
        self._held_out = rows[len(rows) - case.held_out :].to(case.device)
        self._batches = self.rows.split(case.batch)
        self._rows_mb = rows.nbytes / 2**20
        self._number, self._left, self._began = 0, 0, 0.0
        self._seconds: list[float] = []
        self.score: Score | None = None
        self.before_step: Callable[[], None] = lambda: None
        self.encoder: Callable[[], tuple[Tensor, Tensor]] | None = None
        _peak_mb(reset=True)  # memory that imports used temporarily does not count

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self._began:
            self._seconds.append(self._clock() - self._began)
            self._began = 0.0
        while not self._left:
            self._serve()
        self._left -= 1
        batch = self._batches[self._number % len(self._batches)]
        self._number += 1
        self.before_step()
        if self.case.quiet and self._number == 2:  # the first step of ours sets the norm of the encoder
            assert self.encoder is not None, "the adapter has no encoder"
            weight, bias = self.encoder()
            bias.data.copy_(-self.case.quiet * weight.detach().norm(dim=0))
        self._began = self._clock()
        return batch

    def _clock(self) -> float:
        if self.case.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def _serve(self) -> None:
        """Report the finished steps, and read the next command."""
        if self._seconds:
            cpu = time.process_time()
            self._answer({"seconds": self._seconds, "cpu": cpu, "peak_mb": _peak_mb() - self._rows_mb})
            self._seconds = []
        elif not self._number:
            versions = {"torch": torch.__version__, "version": version(PACKAGES[self.case.implementation])}
            self._answer(versions | {"cpu": time.process_time()})
        command = json.loads(self._commands.readline() or '"stop"')
        if command == "stop":
            raise Finished
        if command == "score":
            self._answer(self._scores())
        else:
            self._left = command["steps"]

    def _answer(self, values: dict[str, Any]) -> None:
        self._answers.write(json.dumps(values) + "\n")
        self._answers.flush()

    @torch.no_grad()
    def _scores(self) -> dict[str, float]:
        """Return explained variance, L0, and the share of features that are never active, on held-out rows."""
        assert self.score is not None, "the adapter has no score"
        x = self._held_out
        error, active = 0.0, torch.zeros(self.case.d_sae, dtype=torch.int64, device=x.device)
        for part in x.split(self.case.batch):
            predicted, counts = self.score(part)
            error += (predicted - part).double().square().sum().item()
            active += counts
        spread = (x - x.mean(0)).double().square().sum().item()
        return {
            "explained_variance": 1 - error / spread,
            "l0": active.sum().item() / len(x),
            "dead": (active == 0).double().mean().item(),
        }


def _peak_mb(reset: bool = False) -> float:
    """Return the peak memory so far; ``reset`` first lowers the peak to current use (Linux only)."""
    try:
        if reset:
            peak_reset()
        return status_mib("VmHWM")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    # libraries print to stdout, which is reserved for answers to the driver
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    case = Case(**json.loads(sys.argv[1]))
    torch.set_num_threads(case.threads)
    adapter = import_module(f"benchmarks.peers.with_{case.implementation.replace('-', '_')}")
    rows = torch.from_numpy(np.load(case.data))
    torch.manual_seed(case.seed)
    with contextlib.suppress(Finished):
        adapter.train(case, Feed(case, rows, sys.stdin, answers))


if __name__ == "__main__":
    main()
