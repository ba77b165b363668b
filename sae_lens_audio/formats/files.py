"""Files of foreign folders: what every reader checks, and several files written together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.storage import AnyPath, is_local, write_atomic
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from sae_lens_audio.architectures import SAE, BatchTopK, NormalizedSAE
from sae_lens_audio.formats.metadata import Metadata


@dataclass(frozen=True, eq=False)
class Loaded:
    """A dictionary and what its folder says beside it.

    log_sparsity: log10 of each feature's firing frequency, ``[d_sae]``, if the folder has it.
    source: the file of the weights.
    """

    sae: SAE | NormalizedSAE
    metadata: Metadata
    source: AnyPath
    log_sparsity: Tensor | None = None


_DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def parse_dtype(value: object, source: object) -> torch.dtype:
    """``"float32"`` or ``"torch.float32"``."""
    found = _DTYPES.get(str(value).removeprefix("torch."))
    if found is None:
        raise CheckpointError(f"{source}: dtype must be one of {', '.join(_DTYPES)}, not {value!r}")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def positive(data: Mapping[str, Any], key: str, source: object) -> int:
    """``data[key]``, if it is there and a positive integer."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        what = "missing" if key not in data else f"{value!r}"
        raise CheckpointError(f"{source}: {key!r} must be a positive integer, it is {what}")
    return value


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: object) -> None:
    """One error with everything missing, unexpected, misshapen or not finite."""
    problems = [f"missing {name}" for name in shapes if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in shapes]
    for name in shapes.keys() & tensors.keys():
        tensor = tensors[name]
        if tuple(tensor.shape) != shapes[name]:
            problems.append(f"{name} has shape {list(tensor.shape)} instead of {list(shapes[name])}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} is {tensor.dtype}, not floating point")
        elif not tensor.isfinite().all():
            problems.append(f"{name} has NaN or infinite values: its training broke, take an earlier checkpoint")
    if problems:
        raise CheckpointError(f"{source} does not fit its configuration: {'; '.join(sorted(problems))}")


@torch.no_grad()
def build(
    cls: type[SAE],
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    source: object,
) -> SAE:
    """A dictionary of this class with these configuration values and exactly these weights, converted to ``dtype``.

    Raises:
        CheckpointError: values the configuration refuses, or tensors that do not fit it.
    """
    try:
        config = cls.config_class(**values)
    except (HookedWhisperError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    encoder = tensors.get("W_enc")
    if encoder is None or encoder.shape[-2:] != (config.d_in, config.d_sae):
        # before anything of the size that the configuration claims is allocated
        found = "missing" if encoder is None else f"shape {list(encoder.shape)}"
        raise CheckpointError(
            f"{source} does not fit its configuration: W_enc is {found}, d_in and d_sae ask for "
            f"[{config.d_in}, {config.d_sae}]"
        )
    sae = cls(config).to(dtype)
    if isinstance(sae, BatchTopK):
        sae.topk_threshold = sae.topk_threshold.double()
    state = sae.state_dict()
    check_tensors(tensors, {name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    for name, target in state.items():
        target.copy_(tensors[name])
    return sae.eval()  # so that a loss does not move a BatchTopK threshold unless asked: sae.train()


def write_together(folder: AnyPath, files: Mapping[str, bytes]) -> None:
    """Write all, or none if the disk is full: they take their names only once every one is on the disk.

    A power cut between two renames leaves some old and some new: readers compare digests.
    """
    if not is_local(folder):
        for name, data in files.items():  # an upload is whole or absent by itself
            write_atomic(folder / name, data)
        return
    temporary = {name: folder / f".{name}.new" for name in files}
    try:
        for name, data in files.items():
            write_atomic(temporary[name], data)
        for name in files:
            os.replace(temporary[name], folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
