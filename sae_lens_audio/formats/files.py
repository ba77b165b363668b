"""Checks that every reader of SAE files needs, and writing several files together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper._support.storage import AnyPath, is_local, write_atomic
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.formats.metadata import Metadata


@dataclass(frozen=True, eq=False, repr=False)
class LoadedSAE(Showing):
    """An SAE with the metadata of its folder, which is also ``sae.metadata``.

    log_sparsity: log10 of each feature's firing frequency, ``[d_sae]``, if the folder has it.
    source: the file of the weights.
    """

    sae: SAE | NormalizedSAE
    metadata: Metadata
    source: AnyPath
    log_sparsity: Tensor | None = None

    def __post_init__(self) -> None:
        self.sae.metadata = self.metadata

    def summary(self) -> Summary:
        inner, hook = self.sae.inner, self.metadata.hook_name or "an unknown hook point"
        title = f"LoadedSAE: {type(inner).__name__}, {inner.n_features} features of {hook}"
        rows = (*self.metadata.summary().rows, ("source", str(self.source)))
        return Summary(title, (str(self.sae).replace("\n", " "),), rows=rows)


_DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def parse_dtype(value: object, source: object) -> torch.dtype:
    """Return the dtype called ``"float32"`` or ``"torch.float32"``.

    Raises:
        CheckpointError: an unknown name.
    """
    dtype = _DTYPES.get(str(value).removeprefix("torch."))
    if dtype is None:
        raise CheckpointError(f"{source}: dtype must be one of {', '.join(_DTYPES)}, not {value!r}")
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: object) -> None:
    """Check names, shapes, dtypes and values of tensors.

    Raises:
        CheckpointError: tensors that are missing, unexpected, misshapen, not floating point or not finite.
    """
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
    with_buffers: bool = True,
) -> SAE:
    """Return an SAE with these configuration values and exactly these weights, converted to ``dtype``.

    ``with_buffers``: whether ``tensors`` has the buffers too; otherwise they keep their initial value.

    Raises:
        CheckpointError: the configuration refuses a value, or tensors do not fit it.
    """
    try:
        config = cls.config_class(**values)
    except (HookedWhisperError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    encoder = tensors.get("W_enc")
    if encoder is None or encoder.shape[-2:] != (config.d_in, config.d_sae):
        # check before allocating anything of the size that the configuration claims
        shape = "missing" if encoder is None else f"shape {list(encoder.shape)}"
        raise CheckpointError(
            f"{source} does not fit its configuration: W_enc is {shape}, d_in and d_sae need "
            f"[{config.d_in}, {config.d_sae}]"
        )
    sae = cls(config).to_dtype(dtype)
    state = sae.state_dict() if with_buffers else dict(sae.named_parameters())
    check_tensors(tensors, {name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    for name, target in state.items():
        target.copy_(tensors[name])
    return sae.eval()  # so that computing a loss does not update a threshold


def write_together(folder: AnyPath, files: Mapping[str, bytes]) -> None:
    """Write all files, or none if the disk is full: they get their names once all are on the disk.

    A power failure between two renames can leave old and new files together; readers detect it by the digest.
    """
    if not is_local(folder):
        for name, data in files.items():  # each upload is complete or absent
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
