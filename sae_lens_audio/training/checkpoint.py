"""The whole state of a run in one file: tensors by name, other values as JSON."""

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
    """Replace the file atomically.

    Raises:
        TrainingError: the disk is full. The message names the file; its previous version is intact.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_atomic(path, save(on_cpu, {"facts": json.dumps(facts)}))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        size = sum(t.numel() * t.element_size() for t in on_cpu.values()) / 2**20
        earlier = "the earlier one is intact" if path.exists() else "there was none before"
        raise TrainingError(
            f"the disk is full: the checkpoint {path} needs {size:.0f} MiB; {earlier}. Free space and run it again"
        ) from error


def read_checkpoint(path: AnyPath) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors by group (``sae``, ``optimizer``, ``dead``), and the JSON values.

    Raises:
        CheckpointError: the file is damaged, or not a checkpoint.
    """
    try:
        # ranks on one machine read at the same time: each uses a separate copy
        with TemporaryDirectory() as cache, safe_open(local_copy(path, cache), "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error}): delete it to start the run again"
        ) from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is not a checkpoint of a training run: give another folder")
    groups: dict[str, dict[str, Tensor]] = {"sae": {}, "optimizer": {}, "dead": {}}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        groups["optimizer" if group == "optimiser" else group][key] = tensor  # the spelling of version 0.1
    return groups, facts


def remove_partial_files(path: AnyPath) -> None:
    """Delete temporary files of runs that were killed while writing."""
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)


def optimizer_state(sae: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return moments and step counts as ``"<parameter>.<key>"``."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in sae.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_state(sae: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    for name, parameter in sae.named_parameters():
        prefix = f"{name}."
        values = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        optimizer.state[parameter] = {
            # step counts stay on the device where the optimizer keeps them
            key: value.clone() if value.ndim == 0 and parameter.device.type == "cpu" else value.to(parameter.device)
            for key, value in values.items()
        }
