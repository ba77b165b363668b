"""Hugging Face: hub ids, local folders (safetensors or ``.bin``, whole or sharded), and models already loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import Tensor

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import CheckpointError, UnknownModelError
from hooked_whisper.files import LOCAL_HINT, as_tensors, read_json, read_pickle, read_safetensors, reason
from hooked_whisper.weights.checkpoint import UNEMBED_BIAS, UNEMBED_WEIGHT, Checkpoint, make_checkpoint

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
_TIMEOUT = 10.0  # seconds
# the first of these that is there is taken
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# their words for the fields of EncoderConfig and DecoderConfig, in order
_ENCODER_SIZES = (
    "num_mel_bins",
    "max_source_positions",
    "d_model",
    "encoder_attention_heads",
    "encoder_layers",
    "encoder_ffn_dim",
)
_DECODER_SIZES = (
    "vocab_size",
    "max_target_positions",
    "d_model",
    "decoder_attention_heads",
    "decoder_layers",
    "decoder_ffn_dim",
)

# our words -> theirs; None leaves the word out
_WORDS: dict[str, str | None] = {
    "conv": None,
    "mlp": None,
    "blocks": "layers",
    "ln1": "self_attn_layer_norm",
    "ln_cross": "encoder_attn_layer_norm",
    "ln2": "final_layer_norm",
    "ln_post": "layer_norm",
    "ln_final": "layer_norm",
    "attn": "self_attn",
    "cross_attn": "encoder_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
    "up": "fc1",
    "down": "fc2",
    "positional_embedding": "embed_positions.weight",
    "token_embedding": "embed_tokens",
}
_UNEMBED = {UNEMBED_WEIGHT: "proj_out.weight", UNEMBED_BIAS: "proj_out.bias"}


def huggingface_name(name: str, prefix: str = "model.") -> str:
    """transformers' name of one of our parameters (``prefix=""``: in a bare ``WhisperModel``)."""
    if name in _UNEMBED:
        return _UNEMBED[name]
    words = (_WORDS.get(word, word) for word in name.split("."))
    return prefix + ".".join(word for word in words if word is not None)


def load_huggingface_folder(folder: str | Path, *, name: str | None = None) -> Checkpoint:
    """A folder that transformers' ``save_pretrained`` wrote, or one of the hub."""
    folder = Path(folder)
    for file in _WEIGHT_FILES:
        if (folder / file).is_file():
            return load_huggingface_file(folder / file, name=name or folder.absolute().name)
    raise CheckpointError(f"{folder} has a {CONFIG} but no weights: none of {', '.join(_WEIGHT_FILES)}")


def load_huggingface_file(path: str | Path, *, name: str | None = None) -> Checkpoint:
    """One weight file (or shard index) of transformers, with ``config.json`` beside it."""
    path = Path(path)
    folder = path.parent
    data = read_json(folder / CONFIG)
    generation = folder / GENERATION_CONFIG
    heads = read_json(generation).get("alignment_heads") if generation.is_file() else None
    config = _config(data, heads, name or path.stem, str(folder / CONFIG))
    return _checkpoint(config, _read_weights(path), str(path), _is_tied(data))


def from_huggingface_model(model: Any) -> Checkpoint:
    """A loaded ``WhisperForConditionalGeneration`` or ``WhisperModel``; weights are shared until copied."""
    data = model.config.to_dict()
    heads = getattr(getattr(model, "generation_config", None), "alignment_heads", None)
    source = f"{type(model).__name__} in memory"
    name = Path(getattr(model, "name_or_path", "") or "whisper")
    config = _config(data, heads, name.name if name.is_absolute() else name.as_posix(), source)
    return _checkpoint(config, as_tensors(model.state_dict(), source), source, _is_tied(data))


def load_from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """A model of the Hugging Face hub, through its cache; only the files that are needed are fetched.

    ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and stored tokens work as everywhere. Without a connection, what is
    in the cache is taken.
    """
    problem = "downloading was not allowed"
    if not local_files_only:
        try:
            # asked first, because it is one request: a download without a connection retries for half a minute
            info = HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT)
        except HFValidationError as error:
            raise UnknownModelError(f"{repo_id!r} is no Hugging Face id: {reason(error)}") from None
        except GatedRepoError:
            raise CheckpointError(f"model {repo_id!r} is gated: accept its terms on the hub and log in") from None
        except RevisionNotFoundError:
            raise CheckpointError(f"model {repo_id!r} has no revision {revision!r} on the Hugging Face hub") from None
        except RepositoryNotFoundError:
            raise UnknownModelError(
                f"the Hugging Face hub has no model {repo_id!r} (or it is private), and there is no such folder here. "
                f"{LOCAL_HINT}"
            ) from None
        except Exception as error:  # the client raises its own, the HTTP library's and the system's errors
            problem = reason(error)
        else:
            listed = {file.rfilename for file in info.siblings or ()}
            return load_huggingface_folder(_download(repo_id, revision, listed, cache_dir), name=repo_id)
    try:
        config = hf_hub_download(repo_id, CONFIG, revision=revision, cache_dir=cache_dir, local_files_only=True)
    except (OSError, EntryNotFoundError, HFValidationError):
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"model {repo_id!r}{at} is not in the Hugging Face cache and cannot be downloaded ({problem}). {LOCAL_HINT}"
        ) from None
    return load_huggingface_folder(Path(config).parent, name=repo_id)


def _download(repo_id: str, revision: str | None, listed: set[str], cache_dir: str | Path | None) -> Path:
    """Fetch what is needed of the ``listed`` files and return their folder in the cache."""
    weights = next((file for file in _WEIGHT_FILES if file in listed), None)
    if weights is None or CONFIG not in listed:
        raise CheckpointError(
            f"model {repo_id!r} of the Hugging Face hub lacks {CONFIG} or weights ({' or '.join(_WEIGHT_FILES)})"
        )

    def fetch(file: str, at: str | None) -> Path:
        try:
            return Path(hf_hub_download(repo_id, file, revision=at, cache_dir=cache_dir))
        except Exception as error:  # see load_from_hub
            raise CheckpointError(f"{file} of model {repo_id!r} cannot be downloaded ({reason(error)})") from None

    folder = fetch(CONFIG, revision).parent
    commit = folder.name  # the others from the same commit, also if the branch moves meanwhile
    if GENERATION_CONFIG in listed:
        fetch(GENERATION_CONFIG, commit)
    path = fetch(weights, commit)
    for shard in _shards(path) if path.suffix == ".json" else ():
        fetch(shard, commit)
    return folder


def _config(data: Mapping[str, Any], heads: Any, name: str, where: str) -> WhisperConfig:
    """Our configuration from transformers' one; anything that changes the forward pass is refused."""
    only = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}
    for key, value in only.items():
        if data.get(key, None if key == "model_type" else value) != value:
            raise CheckpointError(f"{where}: {key} must be {value!r} for a Whisper model, not {data.get(key)!r}")

    def size(key: str) -> int:
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}: {key} must be a positive integer, not {value!r}")
        return value

    encoder, decoder = [size(key) for key in _ENCODER_SIZES], [size(key) for key in _DECODER_SIZES]
    try:
        config = WhisperConfig(EncoderConfig(*encoder), DecoderConfig(*decoder), name)
    except ValueError as error:
        raise CheckpointError(f"{where}: {reason(error)}") from None
    return _with_heads(config, heads, where)


def _with_heads(config: WhisperConfig, heads: Any, where: str) -> WhisperConfig:
    if heads is None:
        return config
    try:
        return replace(config, alignment_heads=tuple((int(block), int(head)) for block, head in heads))
    except (TypeError, ValueError, OverflowError):
        # distilled models are published with their teacher's list; only word timing reads it
        warnings.warn(
            f"{where}: the alignment heads {heads} do not exist in this decoder; word timing will use all heads of "
            "the last half of its blocks",
            stacklevel=2,
        )
        return config


def _is_tied(data: Mapping[str, Any]) -> bool:
    return data.get("tie_word_embeddings", True) is not False


def _checkpoint(config: WhisperConfig, tensors: dict[str, Tensor], source: str, tied: bool) -> Checkpoint:
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""

    def foreign(name: str) -> str:
        return huggingface_name(name, prefix)

    unembed, embed = tensors.get("proj_out.weight"), tensors.get(foreign("decoder.token_embedding.weight"))
    if unembed is not None and embed is not None and unembed.dtype == embed.dtype and torch.equal(unembed, embed):
        tensors = {name: tensor for name, tensor in tensors.items() if name != "proj_out.weight"}
        tied = True
    return make_checkpoint(config, tensors, source, foreign=foreign, require=() if tied else (UNEMBED_WEIGHT,))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if path.suffix != ".json":
        return as_tensors(read_pickle(path), path)
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path):
        tensors |= _read_weights(path.with_name(shard))
    return tensors


def _shards(index: Path) -> list[str]:
    """Files named by a shard index; they must lie beside it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'")
    files = sorted({str(file) for file in weight_map.values()})
    for file in files:
        if Path(file).name != file or not file.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index} names {file!r}, which is not a weight file in the same folder")
    return files
