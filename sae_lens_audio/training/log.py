"""What a run says while it trains: lines of JSON always, TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hooked_whisper.errors import MissingExtraError
from hooked_whisper.storage import write_atomic

METRICS = "metrics.jsonl"


@runtime_checkable
class Writer(Protocol):
    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """``metrics.jsonl``: one object a line. A run that goes on first drops the lines of steps it will do again."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run

    def write(self, step: int, values: dict[str, float]) -> None:
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step} | finite) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "TensorBoard is not installed: pip install 'hooked-whisper[tensorboard]', or leave it out of log"
            ) from error
        # what an interrupted run wrote beyond its checkpoint is left out by the viewer
        self._writer = SummaryWriter(folder, purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    def __init__(self, folder: Path, step: int, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "wandb is not installed: pip install 'hooked-whisper[wandb]', or leave it out of log"
            ) from error
        # one run for the folder, however often it goes on
        self._run = wandb.init(
            project="sae_lens_audio", dir=folder, name=folder.name, id=folder.name, resume="allow", config=config
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS = ("tensorboard", "wandb")


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last one that was cut off is left out."""
    path = Path(folder) / METRICS
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
