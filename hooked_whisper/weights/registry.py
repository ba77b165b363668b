"""From whatever a user calls a model to its checkpoint."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn
from whisper.model import Whisper

from hooked_whisper.config import ALIASES, RELEASED
from hooked_whisper.errors import CheckpointError, UnknownModelError, closest
from hooked_whisper.files import LOCAL_HINT, read_json
from hooked_whisper.model import WhisperCore
from hooked_whisper.weights.checkpoint import Checkpoint, from_core
from hooked_whisper.weights.huggingface import (
    from_huggingface_model,
    load_from_hub,
    load_huggingface_file,
    load_huggingface_folder,
)
from hooked_whisper.weights.openai import from_openai_model, load_openai_file, load_released
from hooked_whisper.weights.own import CONFIG, WEIGHTS, is_own, load_own_file, load_own_folder

DEMO = "demo"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".json")


def model_names() -> list[str]:
    """Every name that needs no path: the packaged model, the released ones, their aliases."""
    return [DEMO, *RELEASED, *ALIASES]


def resolve(
    source: Any,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """The checkpoint of a model, given in any of these ways.

    - ``"demo"``: the packaged model;
    - ``"tiny"`` ... ``"large-v3"``, ``"large"``, ``"turbo"``, also as ``"whisper-tiny"``: released by OpenAI;
    - ``"org/name"``: a Hugging Face id, at ``revision``;
    - a folder of transformers or of :func:`save_pretrained`, an openai-whisper ``.pt`` file, or a ``.safetensors`` file
      with its ``config.json`` beside it;
    - a loaded ``whisper``, ``transformers`` or ``hooked_whisper`` model.

    A file or a folder with a ``config.json`` wins over a name. ``cache_dir`` is where downloads are kept (each
    source has its own default); ``local_files_only`` takes nothing from the network.

    Raises ``UnknownModelError`` or ``CheckpointError``.
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
    # a folder of anything else that happens to be called "demo" does not hide the model
    if text.strip() and os.path.exists(path) and not (known and path.is_dir() and not (path / CONFIG).is_file()):
        return _from_path(path)
    if known:
        return _from_name(name, cache_dir, local_files_only)
    if isinstance(source, os.PathLike) or _looks_like_path(text):
        raise UnknownModelError(f"{text} does not exist (the working folder is {Path.cwd()})")
    raise UnknownModelError(_unknown(text))


def _is_hub_id(source: Any) -> bool:
    """``org/name``, unless there is such a file or folder, or it is called like a file."""
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        return False
    return not source.endswith(_FILE_SUFFIXES) and not os.path.exists(source)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~")) or text.endswith(_FILE_SUFFIXES) or "/" in text or os.sep in text


def _from_object(model: Any) -> Checkpoint:
    if isinstance(model, WhisperCore):
        return from_core(model)
    if isinstance(model, Whisper):
        return from_openai_model(model)
    # not by class: transformers need not be installed
    if isinstance(model, nn.Module) and hasattr(getattr(model, "config", None), "model_type"):
        return from_huggingface_model(model)
    raise UnknownModelError(
        f"cannot take weights from a {type(model).__name__}: give a name, a path, or a whisper or transformers model"
    )


def _from_path(path: Path) -> Checkpoint:
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"folder {path} has no {CONFIG}: it is neither a Hugging Face folder nor one of ours")
        return load_own_folder(path) if is_own(read_json(path / CONFIG)) else load_huggingface_folder(path)
    if path.suffix in (".safetensors", ".bin"):
        if not (path.parent / CONFIG).is_file():
            raise CheckpointError(f"{path} needs the model's {CONFIG} beside it")
        return load_own_file(path) if is_own(read_json(path.parent / CONFIG)) else load_huggingface_file(path)
    return load_openai_file(path)


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
