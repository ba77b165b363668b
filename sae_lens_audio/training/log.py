"""Logging of metrics: always JSON lines, optionally TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import math
from typing import Any, Protocol, runtime_checkable

from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local, write_atomic
from hooked_whisper.errors import MissingExtraError
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.training_log import TrainingLog

METRICS = "metrics.jsonl"


@runtime_checkable
class Writer(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def flush(self) -> None:
        """Make everything written so far durable. Called before each checkpoint."""

    def close(self) -> None: ...


class JsonLines:
    """``metrics.jsonl``: one object per line. A resumed run first drops the lines of steps that it will repeat.

    Object stores cannot append. For a URL the lines stay in memory, and the whole file is written before each
    checkpoint. A killed run loses only lines of steps that will be repeated.
    """

    def __init__(self, folder: AnyPath, step: int) -> None:
        self.path = folder / METRICS
        self._lines = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["step"] <= step]
        self._upload()
        self._file = self.path.open("a", encoding="utf-8") if is_local(self.path) else None

    def write(self, step: int, values: dict[str, float]) -> None:
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"step": step} | finite) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()

    def flush(self) -> None:
        if self._file is None:
            self._upload()

    def _upload(self) -> None:
        write_atomic(self.path, "".join(self._lines).encode())

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class TensorBoard:
    def __init__(self, folder: AnyPath, step: int) -> None:
        _check_local(folder, "TensorBoard")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard is not installed: pip install 'hooked-whisper[tensorboard]', or leave it out of log"
            ) from error
        # TensorBoard hides what an interrupted run wrote after its checkpoint
        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    def __init__(self, folder: AnyPath, step: int, config: dict[str, Any]) -> None:
        _check_local(folder, "wandb")
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "wandb is not installed: pip install 'hooked-whisper[wandb]', or leave it out of log"
            ) from error
        # one W&B run per folder, even if resumed
        self._run = wandb.init(
            project="sae_lens_audio", dir=folder, name=folder.name, id=folder.name, resume="allow", config=config
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def flush(self) -> None:
        pass  # wandb uploads on its own

    def close(self) -> None:
        self._run.finish()


WRITERS = ("tensorboard", "wandb")


def _check_local(folder: AnyPath, writer: str) -> None:
    if not is_local(folder):
        raise TrainingError(
            f"{writer} writes to local folders, not to {folder}: leave it out of log, or train into one"
        )


def read_metrics(folder: Place) -> TrainingLog:
    """Return the lines of a run's ``metrics.jsonl``, without a truncated last one: a list, a table and a plot."""
    path = as_path(folder) / METRICS
    lines = TrainingLog()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
