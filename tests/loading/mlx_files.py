"""Folders as ``mlx-examples/whisper/convert.py`` writes them, without MLX."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hooked_whisper.loading import Checkpoint
from hooked_whisper.loading.mlx import mlx_name


def quantize(values: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed words, scales and biases of a matrix: the documented affine scheme of ``mlx.core.quantize``."""
    groups = values.reshape(values.shape[0], -1, group)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scales = (high - low) / (2**bits - 1)
    integers = np.clip(np.rint((groups - low) / scales), 0, 2**bits - 1).astype(np.uint32)
    lanes = integers.reshape(values.shape[0], -1, 32 // bits) << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(lanes, axis=-1), scales[..., 0], low[..., 0]


def mlx_arrays(checkpoint: Checkpoint, dtype: type) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in checkpoint.tensors.items():
        values = tensor.detach().numpy().astype(dtype)
        if name == "encoder.positional_embedding":
            continue
        arrays[mlx_name(name)] = np.ascontiguousarray(values.swapaxes(1, 2)) if values.ndim == 3 else values
    return arrays


def quantized_arrays(arrays: Mapping[str, np.ndarray], bits: int, group: int) -> dict[str, np.ndarray]:
    """Linear layers and the embedding, as ``mlx.nn.quantize`` takes them."""
    result: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if values.ndim == 2 and name.endswith(".weight"):
            packed, scales, biases = quantize(values.astype(np.float32), bits, group)
            layer = re.sub(r"\.weight$", "", name)
            result |= {name: packed, f"{layer}.scales": scales.astype(values.dtype)}
            result |= {f"{layer}.biases": biases.astype(values.dtype)}
        else:
            result[name] = values
    return result


def write_mlx(
    folder: Path, checkpoint: Checkpoint, arrays: Mapping[str, np.ndarray], suffix: str = ".npz", **config: object
) -> Path:
    folder.mkdir(exist_ok=True)
    dims = {**vars(checkpoint.config.dims), "model_type": "whisper", **config}
    (folder / "config.json").write_text(json.dumps(dims))
    if suffix == ".npz":
        np.savez(folder / "weights.npz", **arrays)
    else:
        tensors: dict[str, Tensor] = {name: torch.from_numpy(values) for name, values in arrays.items()}
        save_file(tensors, folder / "weights.safetensors")
    return folder
