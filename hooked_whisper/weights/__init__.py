"""Weights: one resolver for every source, our own format, logit-preserving processing."""

from hooked_whisper.weights.checkpoint import Checkpoint, from_core, load_into
from hooked_whisper.weights.huggingface import (
    from_huggingface_model,
    huggingface_name,
    load_from_hub,
    load_huggingface_file,
    load_huggingface_folder,
)
from hooked_whisper.weights.openai import from_openai_model, load_openai_file, load_released, openai_name
from hooked_whisper.weights.own import load_own_file, load_own_folder, save_pretrained, weights_sha256
from hooked_whisper.weights.processing import (
    center_unembed,
    center_writing_weights,
    fold_ln,
    fold_value_biases,
    process_weights,
)
from hooked_whisper.weights.registry import model_names, resolve

__all__ = [
    "Checkpoint",
    "center_unembed",
    "center_writing_weights",
    "fold_ln",
    "fold_value_biases",
    "from_core",
    "from_huggingface_model",
    "from_openai_model",
    "huggingface_name",
    "load_from_hub",
    "load_huggingface_file",
    "load_huggingface_folder",
    "load_into",
    "load_openai_file",
    "load_own_file",
    "load_own_folder",
    "load_released",
    "model_names",
    "openai_name",
    "process_weights",
    "resolve",
    "save_pretrained",
    "weights_sha256",
]
