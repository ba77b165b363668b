"""Read files from other programs: JSON, safetensors, pickled tensors.

A bad file gives one clear error. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hooked_whisper.errors import CheckpointError

# the remedy where weights are missing
LOCAL_HINT = "Give the path of a local .pt file or model folder instead, or 'demo', which is packaged"

_UNSAFE = re.compile("weights_only|safe_globals|trust")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        CheckpointError: the file does not exist or does not hold a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a UTF-8 byte order mark
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: a model folder needs it beside the weights") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({reason(error)})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of ``path`` and the metadata of its header.

    Raises:
        CheckpointError: the file is not a complete safetensors file.
    """
    _need_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({reason(error)}): fetch or save it again"
        ) from None


def read_pickle(path: Path) -> Any:
    """Return what ``torch.save`` wrote to ``path``: only tensors and plain containers.

    Raises:
        CheckpointError: the file is damaged or holds anything else.
    """
    _need_file(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # older files are not zip archives and cannot be memory-mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a foreign pickle can fail in any way
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        if match:
            why = (
                f"it holds more than tensors ({match.group(1)}); none of it was executed: save its state_dict in the "
                "program that wrote it"
            )
        elif _UNSAFE.search(str(error)):  # PyTorch proposes to execute the content
            why = "it is damaged, or not a PyTorch file that holds only tensors: fetch or save it again"
        else:
            why = f"it is damaged, or not a PyTorch file: {reason(error)}"
        raise CheckpointError(f"{path} cannot be loaded as weights: {why}") from None


def as_tensors(data: Any, source: object) -> dict[str, Tensor]:
    """Return ``data`` if it maps names to dense tensors with data.

    Raises:
        CheckpointError: it does not.
    """
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{source}: the weights must be a dictionary of tensors, not {type(data).__name__}")
    for name, tensor in data.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{source}: {name!r} is a {type(tensor).__name__}, not a tensor under a name")
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"{source}: {name} is a {tensor.layout} tensor on {tensor.device}, without plain data"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            # strides of 0 claim any size with a few bytes; a copy would allocate all of it
            raise CheckpointError(f"{source}: {name} claims shape {tuple(tensor.shape)}, more than the file holds")
    return {name: tensor.detach() for name, tensor in data.items()}


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors (names, dtypes, shapes, values), independent of device and order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several parts joined."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    """Return the first line of an error, cut to 200 characters."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".:") if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
