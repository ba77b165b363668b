"""Read whisper.cpp's ``ggml-*.bin`` checkpoints: float32, float16, and the block-quantized types it publishes.

Layout (little-endian), as whisper.cpp's ``convert-pt-to-ggml.py`` writes it and ``whisper_model_load`` reads it: magic;
11 sizes; the mel filter bank; the vocabulary; then tensors under openai-whisper's names to the end of the file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor
from whisper.audio import mel_filters
from whisper.model import ModelDimensions

from hooked_whisper._support.files import reason
from hooked_whisper.config import WhisperConfig
from hooked_whisper.loading.binary import MAX_TENSORS, BinaryCursor, first_bytes
from hooked_whisper.loading.checkpoint import Checkpoint, make_checkpoint
from hooked_whisper.loading.ggml_blocks import BLOCK, BLOCK_TYPES
from hooked_whisper.loading.openai import openai_name

MAGIC = 0x67676D6C
_SIZES = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)
_MAX_SIZE = 1 << 20
_FLOATS = {0: torch.float32, 1: torch.float16}
# whisper.cpp's number of a file type -> its name
_FILE_TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1"}
_VERSION_FACTOR = 1000  # the file type is stored as 1000 * quantization version + type
# version 1 had float32 scales in these types; the five-bit types are the same in 1 and 2
_VERSIONS = {"q4_0": (2,), "q4_1": (2,), "q8_0": (2,), "q5_0": (1, 2), "q5_1": (1, 2)}
_N_FREQUENCIES = 201
_FILTER_TOLERANCE = 1e-6  # the largest value of a filter bank is 0.026
_COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")  # stored as [width, 1]


def is_ggml(path: Path) -> bool:
    """Whether a file starts with whisper.cpp's magic."""
    return first_bytes(path, 4) == MAGIC.to_bytes(4, "little")


def load_ggml(path: Path) -> Checkpoint:
    """Load a ``ggml-*.bin`` file of whisper.cpp.

    Floats keep their type. Quantized tensors are dequantized to float32; ``metadata["quantization"]`` names their type.
    The file has no alignment heads. Its vocabulary is skipped.

    Raises:
        CheckpointError: the file is truncated, has extra bytes, is inconsistent or is not from whisper.cpp, it uses an
            unsupported type (k-quants), or its mel filter bank is not Whisper's.
    """
    path = Path(path)
    cursor = BinaryCursor([path], str(path))
    magic = cursor.number("I", "the magic number")
    if magic != MAGIC:
        raise cursor.error(f"not a whisper.cpp model: it starts with {magic:#010x}, expected {MAGIC:#010x}")
    sizes = {name: cursor.count("i", name, _MAX_SIZE) for name in _SIZES}
    file_type = _file_type(cursor)
    try:
        config = WhisperConfig.from_dims(ModelDimensions(**sizes), _model_name(path))
    except ValueError as error:
        raise cursor.error(reason(error)) from None
    _check_filters(cursor, sizes["n_mels"])
    cursor.skip_entries(cursor.count("i", "the number of vocabulary entries", sizes["n_vocab"]), "a vocabulary entry")

    tensors: dict[str, Tensor] = {}
    quantized: set[str] = set()
    while cursor.remaining:
        if len(tensors) == MAX_TENSORS:
            raise cursor.error(f"more than {MAX_TENSORS} tensors")
        name, tensor, quantization = _tensor(cursor)
        if name in tensors:
            raise cursor.error(f"tensor {name!r} is repeated")
        tensors[name] = tensor.squeeze(1) if name in _COLUMNS and tensor.shape[1:] == (1,) else tensor
        if quantization:
            quantized.add(quantization)
    metadata = {"format": f"whisper.cpp ggml, {file_type}"}
    if quantized:
        metadata["quantization"] = f"{' and '.join(sorted(quantized))}, dequantized to float32"
    return make_checkpoint(config, tensors, str(path), metadata=metadata, foreign=openai_name)


def _file_type(cursor: BinaryCursor) -> str:
    version, number = divmod(cursor.number("i", "the file type"), _VERSION_FACTOR)
    if number not in _FILE_TYPES:
        raise cursor.error(
            f"file type {number} of whisper.cpp is not read, expected {', '.join(_FILE_TYPES.values())}: quantize the "
            "model again with one of them"
        )
    name = _FILE_TYPES[number]
    if version not in _VERSIONS.get(name, (version,)):
        raise cursor.error(
            f"{name} of quantization version {version}, expected version {' or '.join(map(str, _VERSIONS[name]))}: "
            "quantize the model again"
        )
    return name


def _check_filters(cursor: BinaryCursor, n_mels: int) -> None:
    """Skip the mel filter bank after checking that it is the one that this library uses."""
    shape = (cursor.number("i", "the number of mel filters"), cursor.number("i", "the number of frequencies"))
    if shape != (n_mels, _N_FREQUENCIES):
        raise cursor.error(f"its mel filter bank has shape {shape}, expected {(n_mels, _N_FREQUENCIES)}")
    filters = cursor.tensor(torch.float32, shape, "the mel filter bank")
    if n_mels not in (80, 128):
        return  # Whisper has no such bank: the model accepts mels only, not audio
    with torch.inference_mode(False):  # whisper caches the bank; an inference tensor could not be used in autograd
        difference = float((filters - mel_filters("cpu", n_mels)).abs().max())
    if not difference <= _FILTER_TOLERANCE:  # NaN is refused as well
        raise cursor.error(
            f"its mel filter bank differs from Whisper's by up to {difference:g}, expected at most "
            f"{_FILTER_TOLERANCE:g}: this library does not compute the mels that the model requires"
        )


def _tensor(cursor: BinaryCursor) -> tuple[str, Tensor, str | None]:
    """Read one tensor; return its name, the tensor, and its quantized type, if any."""
    if cursor.remaining < 12:
        raise cursor.error(f"{cursor.remaining} bytes follow the last tensor at byte {cursor.position}; expected none")
    start = cursor.position
    rank, n_bytes, type_id = (cursor.number("i", "the header of a tensor") for _ in range(3))
    if rank < 1 or n_bytes < 1:
        raise cursor.error(f"no tensor follows at byte {start}: rank {rank}, a name of {n_bytes} bytes")
    content = f"the tensor at byte {start}"
    shape = cursor.shape("i", rank, content)[::-1]
    name = cursor.name(n_bytes, f"the name of {content}")
    if type_id in _FLOATS:
        return name, cursor.tensor(_FLOATS[type_id], shape, name), None
    if type_id not in BLOCK_TYPES:
        known = [str(dtype).removeprefix("torch.") for dtype in _FLOATS.values()]
        known += [block_type.name for block_type in BLOCK_TYPES.values()]
        raise cursor.error(f"{name} has ggml type {type_id}, which is not read; expected {', '.join(known)}")
    block_type = BLOCK_TYPES[type_id]
    if shape[-1] % BLOCK:
        raise cursor.error(f"{name} of shape {shape} cannot be {block_type.name}: rows come in blocks of {BLOCK}")
    data = cursor.take(math.prod(shape) // BLOCK * block_type.n_bytes, name)
    try:
        return name, torch.from_numpy(block_type.dequantize(data)).reshape(shape), block_type.name
    except ValueError as error:
        raise cursor.error(f"{name}: {reason(error)}; fetch the file again") from None


def _model_name(path: Path) -> str:
    """Return the model's name from a file name: ``tiny.en`` for ``ggml-tiny.en-q5_1.bin``."""
    return re.sub(r"^ggml-(?=.)|(?<=.)-q\d_\d$", "", path.stem)
