"""The whole state of a run as one file: tensors by name, and what else there is as JSON."""

from __future__ import annotations

import errno
import json
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hooked_whisper._support.storage import AnyPath, local_copy, write_atomic
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.errors import TrainingError

CHECKPOINT = "checkpoint.safetensors"


def write_checkpoint(path: AnyPath, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace the file, or leave the old one whole.

    Raises:
        TrainingError: the disk is full; the message says which file, and that the earlier one is there.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomic(path, save(kept, {"facts": json.dumps(facts)}))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        size = sum(t.numel() * t.element_size() for t in kept.values()) / 2**20
        there = "the one before it is whole" if path.exists() else "there was none before"
        raise TrainingError(
            f"the disk is full: the checkpoint {path} needs {size:.0f} MiB; {there}. Make room and run the same again"
        ) from error


def read_checkpoint(path: AnyPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises :class:`CheckpointError` for a file that is broken or of something else."""
    try:
        # ranks on one machine read at the same time: a copy of one's own
        with TemporaryDirectory() as cache, safe_open(local_copy(path, cache), "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error}): delete it to start the run again"
        ) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no checkpoint of a training run: give another folder")
    return tensors, facts


def remove_halves(path: AnyPath) -> None:
    """Delete what killed runs began to write under temporary names."""
    for half in path.parent.glob(f".{path.name}.*"):
        half.unlink(missing_ok=True)


def optimiser_state(sae: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts, by the parameter's name."""
    found = {}
    for name, parameter in sae.named_parameters():
        for key, value in optimiser.state[parameter].items():
            found[f"{name}.{key}"] = torch.as_tensor(value)
    return found


def load_optimiser_state(sae: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    for name, parameter in sae.named_parameters():
        prefix = f"{name}."
        mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        optimiser.state[parameter] = {
            # step counts stay where the optimiser keeps them
            key: value.clone() if value.ndim == 0 and parameter.device.type == "cpu" else value.to(parameter.device)
            for key, value in mine.items()
        }
