"""openai-whisper: ``.pt`` files, the released names with their cache, and models already loaded."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import whisper
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from hooked_whisper.config import ALIASES, WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.files import LOCAL_HINT, as_tensors, read_pickle, reason
from hooked_whisper.weights.checkpoint import Checkpoint, make_checkpoint

# our words -> theirs; None leaves the word out
_WORDS: dict[str, str | None] = {
    "conv": None,
    "ln1": "attn_ln",
    "ln_cross": "cross_attn_ln",
    "ln2": "mlp_ln",
    "ln_final": "ln",
    "up": "0",
    "down": "2",
}

AlignmentHeads = tuple[tuple[int, int], ...]


def openai_name(name: str) -> str:
    """openai-whisper's name of one of our parameters."""
    words = (_WORDS.get(word, word) for word in name.split("."))
    return ".".join(word for word in words if word is not None)


def load_openai_file(path: str | Path) -> Checkpoint:
    """A ``.pt`` file of openai-whisper: ``{"dims": ..., "model_state_dict": ...}``.

    It does not say which heads follow the audio: the default is as in openai-whisper.
    """
    path = Path(path)
    data = read_pickle(path)
    if not isinstance(data, dict) or not {"dims", "model_state_dict"} <= data.keys():
        holds = sorted(map(str, data))[:5] if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(
            f"{path} is not an openai-whisper checkpoint: it needs 'dims' and 'model_state_dict', but holds {holds}"
        )
    tensors = as_tensors(data["model_state_dict"], path)
    try:
        config = WhisperConfig.from_dims(ModelDimensions(**data["dims"]), path.stem)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: 'dims' does not describe a Whisper model ({reason(error)})") from None
    return make_checkpoint(config, tensors, str(path), foreign=openai_name)


def from_openai_model(model: Whisper) -> Checkpoint:
    """A model loaded by openai-whisper, with its alignment heads; weights are shared until copied."""
    indices: Tensor = model.alignment_heads.coalesce().indices()
    config = WhisperConfig.from_dims(model.dims, alignment_heads=_pairs(indices.T.tolist()))
    return make_checkpoint(
        config, as_tensors(model.state_dict(), "the model"), "whisper.Whisper in memory", foreign=openai_name
    )


def load_released(name: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False) -> Checkpoint:
    """A released model by openai-whisper's short name, through its cache and downloader; the checksum is verified.

    ``cache_dir``: default ``$XDG_CACHE_HOME/whisper`` or ``~/.cache/whisper``, as in openai-whisper.
    """
    name = ALIASES.get(name, name)
    url = whisper._MODELS[name]
    cache_home = os.getenv("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    root = Path(cache_home, "whisper") if cache_dir is None else Path(cache_dir).expanduser()
    file = root / url.rpartition("/")[2]
    if local_files_only:
        if not file.is_file():
            raise CheckpointError(f"model {name!r} is not cached: there is no {file}. {LOCAL_HINT}")
        if _sha256(file) != url.split("/")[-2]:  # the last part but one of the address, by OpenAI's convention
            raise CheckpointError(
                f"{file} has another checksum than the released {name!r}: delete it, download it again"
            )
    else:
        try:
            whisper._download(url, str(root), in_memory=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise CheckpointError(
                f"model {name!r} is not cached ({file}) and cannot be downloaded ({reason(error)}). {LOCAL_HINT}"
            ) from None
    checkpoint = load_openai_file(file)
    heads = _released_heads(name, checkpoint.config.dims)
    return replace(checkpoint, config=replace(checkpoint.config, name=name, alignment_heads=heads))


def _released_heads(name: str, dims: ModelDimensions) -> AlignmentHeads:
    packed = gzip.decompress(base64.b85decode(whisper._ALIGNMENT_HEADS[name]))
    heads = np.frombuffer(packed, dtype=bool).reshape(dims.n_text_layer, dims.n_text_head)
    return _pairs(np.argwhere(heads).tolist())


def _pairs(rows: list[list[int]]) -> AlignmentHeads:
    return tuple((block, head) for block, head in rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
