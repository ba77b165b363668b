"""Read MLX Whisper folders (mlx-community): ``config.json`` with ``weights.npz`` or ``weights.safetensors``.

Layout, as ``mlx-examples/whisper/convert.py`` writes it: openai-whisper's sizes and names, but ``mlp1`` and ``mlp2``;
convolutions [out, kernel, in]; no encoder positions, which are sinusoids; ``alignment_heads`` [head, 2]: block, head.
A quantized layer has packed ``weight``, ``scales`` and ``biases``, from ``mlx.core.quantize``. MLX is not required.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor
from whisper.model import ModelDimensions, sinusoids

from hooked_whisper._support.files import read_json, read_safetensors, reason
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.binary import MAX_RANK, MAX_TENSORS
from hooked_whisper.loading.checkpoint import Checkpoint, make_checkpoint
from hooked_whisper.loading.openai import openai_name

CONFIG = "config.json"
_WEIGHTS = ("weights.safetensors", "weights.npz", "model.safetensors")  # the first one present is used
_SIZES = tuple(ModelDimensions.__dataclass_fields__)
_POSITIONS = "encoder.positional_embedding"
_BITS = (2, 4, 8)  # weights that fill a 32-bit word exactly
_GROUPS = (32, 64, 128)
_MAX_RATIO = 16  # of an archive's content to its size


def is_mlx_folder(folder: Path) -> bool:
    """Whether a folder has an MLX weight file and a ``config.json`` with openai-whisper's sizes."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for name in _WEIGHTS):
        return False
    try:
        return set(_SIZES) <= read_json(folder / CONFIG).keys()
    except CheckpointError:
        return False


def load_mlx_folder(folder: Path) -> Checkpoint:
    """Load an MLX Whisper folder.

    Floats keep their type. Layers quantized to 2, 4 or 8 bits are dequantized to float32;
    ``metadata["quantization"]`` names the number of bits.

    Raises:
        CheckpointError: a file is damaged or inconsistent, or the quantization is not supported.
    """
    folder = Path(folder)
    data = read_json(folder / CONFIG)
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} has no MLX weights: none of {', '.join(_WEIGHTS)}")
    raw = read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_npz(path)
    config = _config(data, raw.pop("alignment_heads", None), folder)
    tensors, bits = _dequantized(raw, data.get("quantization"), path)
    for name, tensor in tensors.items():
        if re.fullmatch(r"encoder\.conv[12]\.weight", name) and tensor.ndim == 3:
            tensors[name] = tensor.transpose(1, 2)
    if _POSITIONS not in tensors:
        tensors[_POSITIONS] = _sinusoids(config, tensors)
    metadata = {"format": f"MLX, {path.name}"}
    if bits:
        metadata["quantization"] = f"MLX {bits} bits, dequantized to float32"
    return make_checkpoint(config, tensors, str(path), metadata=metadata, foreign=mlx_name)


def mlx_name(name: str) -> str:
    """Return MLX's name of one of our parameters."""
    return re.sub(r"\.mlp\.([02])\.", lambda match: f".mlp{int(match[1]) // 2 + 1}.", openai_name(name))


def _config(data: Mapping[str, Any], heads: Tensor | None, folder: Path) -> WhisperConfig:
    sizes = {name: data.get(name) for name in _SIZES}
    pairs = None
    if heads is not None:
        if heads.ndim != 2 or heads.shape[1] != 2 or heads.is_floating_point():
            raise CheckpointError(
                f"{folder}: alignment_heads is {heads.dtype} of shape {tuple(heads.shape)}, expected [head, 2] integers"
            )
        pairs = tuple((int(block), int(head)) for block, head in heads.tolist())
    try:
        return WhisperConfig.from_dims(ModelDimensions(**sizes), folder.absolute().name, pairs)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} does not describe a Whisper model ({reason(error)})") from None


def _sinusoids(config: WhisperConfig, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return openai-whisper's positional embedding; empty if the width or ``n_ctx`` is implausible."""
    encoder = config.encoder
    bias = tensors.get("encoder.conv2.bias")
    if bias is None or bias.shape != (encoder.d_model,) or encoder.n_ctx > 1 << 16:
        return torch.empty(0)  # make_checkpoint reports the wrong shape
    return sinusoids(encoder.n_ctx, encoder.d_model)


def _dequantized(raw: Mapping[str, Tensor], scheme: Any, path: Path) -> tuple[dict[str, Tensor], int | None]:
    """Return every tensor in floating point, and the number of bits of the quantized ones, if any."""
    layers = [name.removesuffix(".scales") for name in raw if name.endswith(".scales")]
    if not layers:
        return dict(raw), None
    bits, group, mode = (
        scheme.get(key) if isinstance(scheme, dict) else None for key in ("bits", "group_size", "mode")
    )
    if bits not in _BITS or group not in _GROUPS or mode not in (None, "affine"):
        raise CheckpointError(
            f"{path.parent / CONFIG}: quantization is {str(scheme)[:200]}, expected bits in {_BITS}, group_size in "
            f"{_GROUPS} and mode 'affine': fetch the float16 model"
        )
    tensors = dict(raw)
    for layer in layers:
        names = (f"{layer}.weight", f"{layer}.scales", f"{layer}.biases")
        if not all(name in raw for name in names):
            raise CheckpointError(f"{path}: {layer} has scales, expected weight, scales and biases")
        packed, scales, biases = (tensors.pop(name) for name in names)
        tensors[names[0]] = _affine(packed, scales, biases, bits, group, f"{path}: {layer}")
    return tensors, bits


def _affine(packed: Tensor, scales: Tensor, biases: Tensor, bits: int, group: int, source: str) -> Tensor:
    """Return ``scale * integer + bias``, with a scale and bias per group of a row; the lowest bits come first."""
    n_columns = packed.shape[-1] * (32 // bits) if packed.ndim == 2 else 0
    groups = (packed.shape[0], n_columns // group) if n_columns else ()
    if packed.dtype != torch.uint32 or not n_columns or n_columns % group or not scales.shape == biases.shape == groups:
        raise CheckpointError(
            f"{source}: packed {packed.dtype} {tuple(packed.shape)} with scales {tuple(scales.shape)} and biases "
            f"{tuple(biases.shape)} is not a matrix of {bits} bits in groups of {group}"
        )
    scales, biases = scales.float(), biases.float()
    if not bool(torch.isfinite(scales).all() and torch.isfinite(biases).all()):
        raise CheckpointError(f"{source}: has scales or biases that are not finite; fetch the file again")
    words = packed.numpy()[..., None] >> np.arange(0, 32, bits, dtype=np.uint32)
    integers = torch.from_numpy((words & np.uint32(2**bits - 1)).astype(np.float32)).reshape(*groups, group)
    return integers.mul_(scales[..., None]).add_(biases[..., None]).flatten(1)


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Read the arrays of an ``.npz`` file, checking each header against the archive before allocating memory."""
    tensors: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_TENSORS or total > _MAX_RATIO * path.stat().st_size:
                raise CheckpointError(f"{path} claims {len(members)} arrays of {total} bytes, more than it can hold")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in tensors:
                    raise CheckpointError(f"{path}: array {name!r} is repeated")
                tensors[name] = _read_array(archive, member, f"{path}: {name}")
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, zlib and numpy have their own exceptions
        raise CheckpointError(f"{path} is not a whole .npz file ({reason(error)}); fetch the file again") from None
    return tensors


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> Tensor:
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            raise CheckpointError(f"{source}: expected version 1.0 of the .npy format")
        shape, fortran_order, dtype = npy.read_array_header_1_0(file)
        if dtype.str not in ("<f2", "<f4", "<u4", "<i4", "<i8") or fortran_order or len(shape) > MAX_RANK:
            order = ", in Fortran order" * fortran_order
            raise CheckpointError(
                f"{source} is {dtype} of shape {shape}{order}, expected float16, float32 or integers of rank "
                f"{MAX_RANK} at most"
            )
        n_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=1) < 1 or n_bytes != member.file_size - file.tell():
            raise CheckpointError(
                f"{source} has shape {shape}, taking {n_bytes} bytes; the file has {member.file_size - file.tell()}"
            )
        return torch.from_numpy(np.frombuffer(bytearray(file.read(n_bytes)), dtype).reshape(shape))
