"""Save and load our own format: a folder with ``config.json`` and ``model.safetensors``, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hooked_whisper._support.files import read_json, read_safetensors, reason, tensors_sha256
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.checkpoint import Checkpoint, make_checkpoint
from hooked_whisper.model import WhisperCore

FORMAT, FORMAT_VERSION = "hooked_whisper", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(
    model: WhisperCore,
    folder: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` to ``folder``, which is created if necessary.

    An interrupted save leaves the previous files intact. Tied weights are stored once.

    Args:
        metadata: stored in ``config.json``.
        dtype: type of the stored weights; ``torch.float16`` halves the file. Loading converts to float32 by default.

    Raises:
        ValueError: ``metadata`` has other values than strings, or weights are too large for ``dtype``.
    """
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise ValueError(f"metadata must map strings to strings, got {metadata}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: stored_tensor(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    digest = tensors_sha256(tensors)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": model.cfg.to_dict(),
        "metadata": metadata,
        "weights_sha256": digest,
    }
    new_weights, new_config = folder / f".{WEIGHTS}.new", folder / f".{CONFIG}.new"
    try:
        save_file(tensors, new_weights, {"sha256": digest})  # one entry only: the order of several would be random
        new_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        new_weights.chmod(new_config.stat().st_mode)  # safetensors makes the file readable by its owner only
        for path in (new_weights, new_config):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        _replace_both(folder, new_weights, new_config)
    finally:
        new_weights.unlink(missing_ok=True)
        new_config.unlink(missing_ok=True)


def weights_sha256(model: WhisperCore) -> str:
    """Return the SHA-256 of all weights with their names, dtypes and shapes, to identify a model.

    :func:`save_pretrained` stores the same digest if it does not convert the dtype.
    """
    return tensors_sha256(model.state_dict())


def load_own_folder(folder: str | Path) -> Checkpoint:
    """Load a folder that :func:`save_pretrained` wrote."""
    return load_own_file(Path(folder) / WEIGHTS)


def load_own_file(path: str | Path) -> Checkpoint:
    """Load a folder that :func:`save_pretrained` wrote, given its weight file, which may have another name.

    Raises:
        CheckpointError: another program wrote the folder, its format version differs, or its files are damaged or come
            from different saves.
    """
    path = Path(path)
    config_path = path.parent / CONFIG
    data = read_json(config_path)
    if not is_own(data):
        raise CheckpointError(f"{config_path} was not written by save_pretrained: 'format' is {data.get('format')!r}")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{config_path} has format version {version!r}, this hooked_whisper reads {FORMAT_VERSION}"
        )
    config, metadata = data.get("config"), data.get("metadata", {})
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        raise CheckpointError(f"{config_path}: 'config' and 'metadata' must be objects")
    try:
        whisper_config = WhisperConfig.from_dict(config)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{config_path}: {reason(error)}") from None
    tensors, header = read_safetensors(path)
    digests = {digest for digest in (header.get("sha256"), data.get("weights_sha256")) if digest is not None}
    if len(digests) == 2:
        raise CheckpointError(f"{path} and {CONFIG} come from different saves: save the model again")
    texts = {str(key): str(value) for key, value in metadata.items()}
    return make_checkpoint(whisper_config, tensors, str(path), metadata=texts)


def is_own(data: Mapping[str, Any]) -> bool:
    """Whether :func:`save_pretrained` wrote a ``config.json``."""
    return data.get("format") == FORMAT


def _replace_both(folder: Path, new_weights: Path, new_config: Path) -> None:
    """Replace both files; if replacing the second fails, restore the first.

    Loading detects a power failure between the two steps by the digest in both files.
    """
    weights, backup = folder / WEIGHTS, folder / f".{WEIGHTS}.old"
    backup.unlink(missing_ok=True)
    with suppress(OSError):  # no old weights, or a file system without links
        os.link(weights, backup)
    try:
        os.replace(new_weights, weights)
        try:
            os.replace(new_config, folder / CONFIG)
        except BaseException:
            if backup.exists():
                os.replace(backup, weights)
            raise
    finally:
        backup.unlink(missing_ok=True)
    with suppress(OSError):  # some systems cannot sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stored_tensor(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a tensor on the CPU, in ``dtype`` if it is given.

    Raises:
        ValueError: values are too large for ``dtype``.
    """
    stored = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
    if not torch.equal(stored.isfinite(), tensor.isfinite().cpu()):
        raise ValueError(f"{name} has values up to {tensor.abs().max():.3g}, too large for {dtype}")
    return stored
