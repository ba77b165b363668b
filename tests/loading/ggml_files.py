"""A writer of whisper.cpp's files, after the published converter and quantizer, and whisper.cpp itself to read them."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import whisper
from gguf import quants
from gguf.constants import GGMLQuantizationType
from torch import Tensor
from whisper.model import ModelDimensions

from hooked_whisper.loading import Checkpoint, openai_name

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}  # of a tensor
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2002, "q4_1": 2003, "q8_0": 2007, "q5_0": 2008, "q5_1": 2009}
_KEPT = ("encoder.conv1.bias", "encoder.conv2.bias", "encoder.positional_embedding", "decoder.positional_embedding")


def quantize(values: np.ndarray, kind: str) -> np.ndarray:
    """Blocks of the last axis, by the ``gguf`` package."""
    return quants.quantize(values.astype(np.float32), GGMLQuantizationType[kind.upper()])


def dequantize(data: np.ndarray, kind: str) -> np.ndarray:
    return quants.dequantize(data, GGMLQuantizationType[kind.upper()])


def stored_type(name: str, ndim: int, kind: str) -> str:
    """What the converter, and the quantizer after it, do with a tensor in a file of this type."""
    if kind == "f32" or ndim < 2 or name in _KEPT:
        return "f32"
    return kind if ndim == 2 or kind == "f16" else "f16"


def tensor_bytes(name: str, values: np.ndarray, kind: str) -> bytes:
    """A tensor with its header."""
    shape = struct.pack(f"<{values.ndim}i", *values.shape[::-1])
    header = struct.pack("<iii", values.ndim, len(name.encode()), TYPES[kind]) + shape + name.encode()
    if kind in ("f32", "f16"):
        return header + values.astype("<f4" if kind == "f32" else "<f2").tobytes()
    return header + quantize(values, kind).tobytes()


def head_bytes(
    dims: ModelDimensions, kind: str, *, magic: int = 0x67676D6C, filters: np.ndarray | None = None
) -> bytes:
    """Everything before the tensors."""
    sizes = [dims.n_vocab, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer]
    sizes += [dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer, dims.n_mels, FILE_TYPES[kind]]
    if filters is None:
        filters = whisper.audio.mel_filters("cpu", dims.n_mels).numpy()
    chunks = [struct.pack("<I", magic), struct.pack("<11i", *sizes)]
    chunks += [struct.pack("<2i", *filters.shape), filters.astype("<f4").tobytes()]
    tokens = vocabulary(dims.n_vocab)
    chunks.append(struct.pack("<i", len(tokens)))
    chunks += [struct.pack("<i", len(token)) + token for token in tokens]
    return b"".join(chunks)


def vocabulary(n_vocab: int) -> list[bytes]:
    if n_vocab < 50000:
        return [b"abcdefghij"[:i] for i in range(min(n_vocab, 10))]  # one of them empty
    name = "multilingual" if n_vocab >= 51865 else "gpt2"
    lines = (Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken").read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines if line]


def file_tensors(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Our tensors under openai-whisper's names, in the converter's shapes."""
    arrays = {openai_name(name): tensor.detach().float().numpy() for name, tensor in tensors.items()}
    return {name: a.reshape(-1, 1) if name in _KEPT and name.endswith("bias") else a for name, a in arrays.items()}


def write_ggml(path: Path, checkpoint: Checkpoint, kind: str) -> Path:
    chunks = [head_bytes(checkpoint.config.dims, kind)]
    for name, values in file_tensors(checkpoint.tensors).items():
        chunks.append(tensor_bytes(name, values, stored_type(name, values.ndim, kind)))
    path.write_bytes(b"".join(chunks))
    return path


def rounded(checkpoint: Checkpoint, kind: str) -> dict[str, Tensor]:
    """The tensors that a file of this type holds, by ``gguf``, under our names."""
    result = {}
    for name, tensor in checkpoint.tensors.items():
        stored = stored_type(openai_name(name), tensor.ndim + ("conv" in name and tensor.ndim == 1), kind)
        values = tensor.detach().float().numpy()
        if stored == "f16":
            values = values.astype(np.float16)
        elif stored != "f32":
            values = dequantize(quantize(values, stored), stored)
        result[name] = torch.from_numpy(values)
    return result


def whisper_cpp_logits(path: Path, mel: Tensor, tokens: Sequence[int], folder: Path) -> Tensor:
    """whisper.cpp's logits ``[token, vocabulary]`` of the last token, for each beginning of ``tokens``.

    In a subprocess: whisper.cpp aborts on some errors.
    """
    np.savez(folder / "input.npz", mel=mel.numpy().astype(np.float32), tokens=np.array(tokens, np.int32))
    command = [sys.executable, str(Path(__file__).with_name("whisper_cpp.py"))]
    command += [str(path), str(folder / "input.npz"), str(folder / "logits.npy")]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    return torch.from_numpy(np.load(folder / "logits.npy"))
