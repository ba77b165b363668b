"""Read openai-whisper's ``.pt`` files, its cache and downloads of released models, and loaded models."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

import whisper
from torch import Tensor
from tqdm import tqdm
from whisper.model import ModelDimensions, Whisper

from hooked_whisper._support.files import as_tensors, file_sha256, read_pickle, reason
from hooked_whisper.config import ALIASES, WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.alignment_heads import published_sha256, released_heads, with_known_heads
from hooked_whisper.loading.checkpoint import Checkpoint, make_checkpoint
from hooked_whisper.loading.sniff import describe_content

# our words -> openai-whisper's; None omits the word
_WORDS: dict[str, str | None] = {
    "conv": None,
    "ln1": "attn_ln",
    "ln_cross": "cross_attn_ln",
    "ln2": "mlp_ln",
    "ln_final": "ln",
    "up": "0",
    "down": "2",
}

_TIMEOUT = 5.0  # seconds without a response or data
_CHUNK = 1 << 20


def openai_name(name: str) -> str:
    """Return openai-whisper's name of one of our parameters."""
    words = (_WORDS.get(word, word) for word in name.split("."))
    return ".".join(word for word in words if word is not None)


def load_openai_file(path: str | Path) -> Checkpoint:
    """Load a ``.pt`` file of openai-whisper: ``{"dims": ..., "model_state_dict": ...}``.

    The file has no alignment heads. They are those of the released model that its shape, file name or checksum
    identifies, else openai-whisper's fallback, with a warning.

    Raises:
        CheckpointError: the file is not an openai-whisper checkpoint, or its tensors do not match ``dims``.
    """
    path = Path(path)
    data = read_pickle(path)
    if not isinstance(data, dict) or not {"dims", "model_state_dict"} <= data.keys():
        description = describe_content(data) if isinstance(data, dict) else None
        if description is not None:
            raise CheckpointError(f"{path} holds {description}")
        content = sorted(map(str, data))[:5] if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(
            f"{path} is not an openai-whisper checkpoint: it needs 'dims' and 'model_state_dict', but holds {content}"
        )
    tensors = as_tensors(data["model_state_dict"], path)
    try:
        config = WhisperConfig.from_dims(ModelDimensions(**data["dims"]), path.stem)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: 'dims' does not describe a Whisper model ({reason(error)})") from None
    checkpoint = make_checkpoint(config, tensors, str(path), foreign=openai_name)
    config = with_known_heads(config, path.stem, str(path), lambda: file_sha256(path))
    return replace(checkpoint, config=config)


def from_openai_model(model: Whisper) -> Checkpoint:
    """Convert a model loaded by openai-whisper, with its alignment heads; weights are shared until copied."""
    indices: Tensor = model.alignment_heads.coalesce().indices()
    heads = tuple((int(block), int(head)) for block, head in indices.T.tolist())
    config = WhisperConfig.from_dims(model.dims, alignment_heads=heads)
    return make_checkpoint(
        config, as_tensors(model.state_dict(), "the model"), "whisper.Whisper in memory", foreign=openai_name
    )


def openai_cache_file(name: str, cache_dir: str | Path | None = None) -> Path:
    """Return the path of a released model in openai-whisper's cache.

    ``cache_dir`` defaults to ``$XDG_CACHE_HOME/whisper`` or ``~/.cache/whisper``, as in openai-whisper.
    """
    cache_home = os.getenv("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    root = Path(cache_home, "whisper") if cache_dir is None else Path(cache_dir).expanduser()
    return root / _url(name).rpartition("/")[2]


def load_openai_cache(name: str, *, cache_dir: str | Path | None = None) -> Checkpoint | None:
    """Load a released model from openai-whisper's cache; return None if it is not cached.

    Raises:
        CheckpointError: the file's checksum is not that of the released model.
    """
    file = openai_cache_file(name, cache_dir)
    if not file.is_file():
        return None
    if file_sha256(file) != published_sha256(name):
        raise CheckpointError(
            f"{file} has another checksum than the released {name!r} (an interrupted download?): delete the file and "
            "load the model again, or give the file's path to load it as it is"
        )
    checkpoint = load_openai_file(file)
    heads = released_heads(name, checkpoint.config.decoder)
    return replace(checkpoint, config=replace(checkpoint.config, name=name, alignment_heads=heads))


def download_openai(name: str, *, cache_dir: str | Path | None = None) -> Checkpoint:
    """Download a released model from OpenAI into openai-whisper's cache and load it.

    The file gets its final name only after it is complete and its checksum is verified.

    Raises:
        OSError: the connection fails, breaks, or does not respond within a few seconds.
        CheckpointError: the file has the wrong checksum.
    """
    file = openai_cache_file(name, cache_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(_url(name), timeout=_TIMEOUT) as server:
            size = int(server.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, desc=file.name, unit="B", unit_scale=True, unit_divisor=1024) as progress:
                while chunk := server.read(_CHUNK):
                    target.write(chunk)
                    digest.update(chunk)
                    progress.update(len(chunk))
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != published_sha256(name):
            raise CheckpointError(f"the file that {_url(name)} sent has another checksum than the released {name!r}")
        os.chmod(partial, 0o644)
        os.replace(partial, file)
    finally:
        Path(partial).unlink(missing_ok=True)
    checkpoint = load_openai_cache(name, cache_dir=cache_dir)
    assert checkpoint is not None
    return checkpoint


def _url(name: str) -> str:
    return whisper._MODELS[ALIASES.get(name, name)]
