"""Resolve a model name, path or object to its checkpoint."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn
from whisper.model import Whisper

from hooked_whisper._support.files import LOCAL_HINT
from hooked_whisper.config import ALIASES, RELEASED
from hooked_whisper.errors import CheckpointError, UnknownModelError, closest
from hooked_whisper.loading.checkpoint import Checkpoint, from_core
from hooked_whisper.loading.formats import load_path
from hooked_whisper.loading.hub import HUB_FILE, HUB_ID, load_from_hub
from hooked_whisper.loading.huggingface import CONFIG, from_huggingface_model
from hooked_whisper.loading.openai import from_openai_model
from hooked_whisper.loading.own import WEIGHTS, load_own_folder
from hooked_whisper.loading.released import load_released
from hooked_whisper.model import WhisperCore

DEMO = "demo"
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".json")


def model_names() -> list[str]:
    """Return the names of the packaged model, the released models, and their aliases."""
    return [DEMO, *RELEASED, *ALIASES]


def resolve(
    source: Any,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Return the checkpoint of a model, given in any of these ways:

    - ``"demo"``: the packaged model;
    - ``"tiny"`` ... ``"large-v3"``, ``"large"``, ``"turbo"``, also as ``"whisper-tiny"``: released by OpenAI; from a
      cache, an installed data package or a download (see :func:`load_released`);
    - ``"org/name"``: a Hugging Face id of transformers, faster-whisper or MLX, at ``revision``;
      ``"org/name/ggml-....bin"`` for a file of whisper.cpp;
    - a folder of transformers, faster-whisper (CTranslate2), MLX or :func:`save_pretrained`;
    - an openai-whisper ``.pt`` file, a whisper.cpp ``ggml-*.bin``, a CTranslate2 ``model.bin``, or a ``.safetensors``
      file with its ``config.json`` beside it;
    - a loaded ``whisper``, ``transformers`` or ``hooked_whisper`` model.

    A file, or a folder with a ``config.json``, takes precedence over a name. ``cache_dir`` is the folder for downloads
    (each source has its own default); ``local_files_only`` disables the network.

    Raises:
        UnknownModelError: the name, path or repository does not exist.
        MissingWeightsError: the name is known, but no source has its weights.
        CheckpointError: a file is damaged, or its format is unknown.
        ValueError: ``revision`` is given for a source that is not a Hugging Face id.
    """
    if _is_hub_id(source):
        return load_from_hub(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    if revision is not None:
        raise ValueError(f"revision={revision!r} applies to Hugging Face ids (org/name) only")
    if not isinstance(source, (str, os.PathLike)):
        return _from_object(source)
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    name = text.removeprefix("whisper-") if isinstance(source, str) else ""
    known = name in model_names()
    # an unrelated folder called "demo" does not hide the model
    if text.strip() and os.path.exists(path) and not (known and path.is_dir() and not (path / CONFIG).is_file()):
        return load_path(path)
    if known:
        return _from_name(name, cache_dir, local_files_only)
    if isinstance(source, os.PathLike) or _looks_like_path(text):
        raise UnknownModelError(f"{text} does not exist (the working folder is {Path.cwd()})")
    raise UnknownModelError(_unknown(text))


def _is_hub_id(source: Any) -> bool:
    """``org/name`` (or ``org/name/ggml-....bin``), unless such a file or folder exists, or it ends like a file."""
    if not isinstance(source, str) or os.path.exists(source):
        return False
    if HUB_FILE.fullmatch(source):
        return True
    return bool(HUB_ID.fullmatch(source)) and not source.endswith(_FILE_SUFFIXES)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or text.endswith(_FILE_SUFFIXES) or "/" in text or os.sep in text


def _from_object(model: Any) -> Checkpoint:
    if isinstance(model, WhisperCore):
        return from_core(model)
    if isinstance(model, Whisper):
        return from_openai_model(model)
    # do not check the class: transformers may not be installed
    if isinstance(model, nn.Module) and hasattr(getattr(model, "config", None), "model_type"):
        return from_huggingface_model(model)
    raise UnknownModelError(
        f"cannot take weights from a {type(model).__name__}: give a name, a path, or a whisper or transformers model"
    )


def _from_name(name: str, cache_dir: str | Path | None, local_files_only: bool) -> Checkpoint:
    if name != DEMO:
        return load_released(name, cache_dir=cache_dir, local_files_only=local_files_only)
    folder = Path(str(resources.files("hooked_whisper") / DEMO))
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"this installation has no demo weights ({folder / WEIGHTS} is absent): reinstall the package"
        )
    return load_own_folder(folder)


def _unknown(text: str) -> str:
    near = closest(text.removeprefix("whisper-"), model_names())
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return (
        f"unknown model {text!r}: {hint}Known names: {', '.join(model_names())}; or a Hugging Face id like "
        f"'openai/whisper-tiny'. {LOCAL_HINT}"
    )
