"""Recognize the format of a file or folder, and call its reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hooked_whisper._support.files import read_json
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.alignment_heads import with_known_heads
from hooked_whisper.loading.checkpoint import Checkpoint
from hooked_whisper.loading.ctranslate2 import is_ctranslate2, load_ctranslate2
from hooked_whisper.loading.ggml import is_ggml, load_ggml
from hooked_whisper.loading.huggingface import (
    CONFIG,
    WEIGHT_FILES,
    load_huggingface_file,
    load_huggingface_folder,
)
from hooked_whisper.loading.mlx import is_mlx_folder, load_mlx_folder
from hooked_whisper.loading.openai import load_openai_file
from hooked_whisper.loading.own import is_own, load_own_file, load_own_folder
from hooked_whisper.loading.sniff import ADAPTER, describe_foreign, describe_foreign_folder, describe_unreadable
from hooked_whisper.loading.vocabulary import with_vocabulary

CTRANSLATE2 = "model.bin"


def load_path(path: Path, *, name: str | None = None) -> Checkpoint:
    """Load a file or folder of any supported format.

    Files are recognized by their first bytes if the format has a signature (CTranslate2, whisper.cpp), folders by
    their ``config.json``.

    Args:
        path: an existing file or folder.
        name: the model's name, for ``config.name``; default: from the path.

    Raises:
        CheckpointError: the format is unknown, or the file is damaged or does not match its configuration.
    """
    try:
        return _load_folder(path, name) if path.is_dir() else _load_file(path, name)
    except CheckpointError:
        description = describe_unreadable(path)
        if description is None:
            raise
    raise CheckpointError(description)


def _load_folder(folder: Path, name: str | None) -> Checkpoint:
    config = folder / CONFIG
    if (folder / CTRANSLATE2).is_file() and is_ctranslate2(folder / CTRANSLATE2):
        return with_vocabulary(load_ctranslate2(folder, name=name), folder)
    if is_mlx_folder(folder):
        return _completed(with_vocabulary(load_mlx_folder(folder), folder), folder, name)
    if not config.is_file() or not any((folder / file).is_file() for file in WEIGHT_FILES):
        description = describe_foreign_folder(folder)
        if description is not None:
            raise CheckpointError(f"folder {folder} {description}")
    if not config.is_file():
        raise CheckpointError(
            f"folder {folder} has no {CONFIG}: a model folder (of transformers, CTranslate2, MLX, or save_pretrained) "
            "needs it beside the weights"
        )
    if is_own(read_json(config)):
        return load_own_folder(folder)
    return load_huggingface_folder(folder, name=name)


def _load_file(path: Path, name: str | None) -> Checkpoint:
    if is_ctranslate2(path):
        return with_vocabulary(load_ctranslate2(path, name=name), path.parent)
    if is_ggml(path):
        return _completed(load_ggml(path), path, name)
    if is_mlx_folder(path.parent) and path.suffix in (".safetensors", ".npz"):
        return _completed(with_vocabulary(load_mlx_folder(path.parent), path.parent), path.parent, name)
    config = path.parent / CONFIG
    if path.suffix in (".safetensors", ".bin") and config.is_file():
        return load_own_file(path) if is_own(read_json(config)) else load_huggingface_file(path, name=name)
    if (path.parent / ADAPTER).is_file() and path.suffix in (".safetensors", ".bin"):
        raise CheckpointError(f"folder {path.parent} {describe_foreign_folder(path.parent)}")
    description = describe_foreign(path)
    if description is not None:
        raise CheckpointError(f"{path} is {description}")
    if path.suffix in (".safetensors", ".bin"):
        raise CheckpointError(f"{path} needs the model's {CONFIG} beside it")
    return load_openai_file(path)


def _completed(checkpoint: Checkpoint, path: Path, name: str | None) -> Checkpoint:
    """Return the checkpoint with the given name, and with alignment heads if they are known."""
    config = replace(checkpoint.config, name=name) if name else checkpoint.config
    label = name or path.absolute().name
    return replace(checkpoint, config=with_known_heads(config, label, str(path)))
