"""Read transformers checkpoints: folders (safetensors or ``.bin``, sharded or not), and loaded models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hooked_whisper._support.files import as_tensors, read_json, read_pickle, read_safetensors, reason
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.alignment_heads import with_listed_heads
from hooked_whisper.loading.checkpoint import UNEMBED_BIAS, UNEMBED_WEIGHT, Checkpoint, make_checkpoint
from hooked_whisper.loading.vocabulary import GENERATION_CONFIG, with_vocabulary

CONFIG = "config.json"
# the first one present is used
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# transformers' names for the fields of EncoderConfig and DecoderConfig, in order
ENCODER_SIZES = (
    "num_mel_bins",
    "max_source_positions",
    "d_model",
    "encoder_attention_heads",
    "encoder_layers",
    "encoder_ffn_dim",
)
DECODER_SIZES = (
    "vocab_size",
    "max_target_positions",
    "d_model",
    "decoder_attention_heads",
    "decoder_layers",
    "decoder_ffn_dim",
)

# our words -> transformers'; None omits the word
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
    """Return transformers' name of one of our parameters (``prefix=""``: in a bare ``WhisperModel``)."""
    if name in _UNEMBED:
        return _UNEMBED[name]
    words = (_WORDS.get(word, word) for word in name.split("."))
    return prefix + ".".join(word for word in words if word is not None)


def load_huggingface_folder(folder: str | Path, *, name: str | None = None) -> Checkpoint:
    """Load a folder that transformers' ``save_pretrained`` wrote, or one from the hub."""
    folder = Path(folder)
    for file in WEIGHT_FILES:
        if (folder / file).is_file():
            return load_huggingface_file(folder / file, name=name or folder.absolute().name)
    raise CheckpointError(f"{folder} has a {CONFIG} but no weights: none of {', '.join(WEIGHT_FILES)}")


def load_huggingface_file(path: str | Path, *, name: str | None = None) -> Checkpoint:
    """Load a weight file (or shard index) of transformers, with ``config.json`` in the same folder."""
    path = Path(path)
    folder = path.parent
    data = read_json(folder / CONFIG)
    generation = folder / GENERATION_CONFIG
    heads = read_json(generation).get("alignment_heads") if generation.is_file() else None
    config = _config(data, name or path.stem, str(folder / CONFIG))
    checkpoint = with_vocabulary(_checkpoint(config, _read_weights(path), str(path), _is_tied(data)), folder)
    return _with_heads(checkpoint, heads, str(folder))


def from_huggingface_model(model: Any) -> Checkpoint:
    """Convert a loaded ``WhisperForConditionalGeneration`` or ``WhisperModel``; weights are shared until copied."""
    data = model.config.to_dict()
    generation = getattr(model, "generation_config", None)
    heads = getattr(generation, "alignment_heads", None)
    source = f"{type(model).__name__} in memory"
    name = Path(getattr(model, "name_or_path", "") or "whisper")
    config = _config(data, name.name if name.is_absolute() else name.as_posix(), source)
    checkpoint = _checkpoint(config, as_tensors(model.state_dict(), source), source, _is_tied(data))
    if generation is not None:
        checkpoint = with_vocabulary(checkpoint, Path(), generation.to_dict())
    return _with_heads(checkpoint, heads, source)


def _config(data: Mapping[str, Any], name: str, where: str) -> WhisperConfig:
    """Convert transformers' configuration to ours, rejecting settings that change the forward pass."""
    required = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}
    for key, value in required.items():
        if data.get(key, None if key == "model_type" else value) != value:
            raise CheckpointError(f"{where}: {key} must be {value!r} for a Whisper model, not {data.get(key)!r}")

    def size(key: str) -> int:
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}: {key} must be a positive integer, not {value!r}")
        return value

    encoder, decoder = [size(key) for key in ENCODER_SIZES], [size(key) for key in DECODER_SIZES]
    try:
        return WhisperConfig(EncoderConfig(*encoder), DecoderConfig(*decoder), name)
    except ValueError as error:
        raise CheckpointError(f"{where}: {reason(error)}") from None


def _with_heads(checkpoint: Checkpoint, heads: Any, where: str) -> Checkpoint:
    """Return the checkpoint with the alignment heads of its generation config, else those that its shape implies."""
    config = checkpoint.config
    return replace(checkpoint, config=with_listed_heads(config, heads, config.name, where))


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
    for shard in shards(path):
        tensors |= _read_weights(path.with_name(shard))
    return tensors


def shards(index: Path) -> list[str]:
    """Return the weight files that a shard index names.

    Raises:
        CheckpointError: the index names none, or a file that is not a weight file in the same folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'")
    files = sorted({str(file) for file in weight_map.values()})
    for file in files:
        if Path(file).name != file or not file.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{index} names {file!r}, which is not a weight file in the same folder")
    return files
