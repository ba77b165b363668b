"""Recognize files that are not checkpoints of a format read here, for error messages."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hooked_whisper.weights.binary import first_bytes

_HEAD = 512  # bytes
_CONVERT = "convert the original model again, to safetensors, CTranslate2 or whisper.cpp's ggml-*.bin"
# first bytes -> what the file is, and what to do
_MAGIC = (
    (b"GGUF", f"a GGUF file, which is not read: {_CONVERT}"),
    (b"tjgg", f"a ggjt file of early llama.cpp, which is not read: {_CONVERT}"),
    (b"fmgg", f"a ggmf file of early llama.cpp, which is not read: {_CONVERT}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull` in its repository"),
    (b"version https://hawser", "a Git LFS pointer, not the weights: run `git lfs pull` in its repository"),
    (b"\x89HDF\r\n", "an HDF5 file (TensorFlow or Keras), which is not read: fetch the model's safetensors"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"RIFF", "a RIFF file, such as a WAV recording, not a model: give it as audio"),
    (b"fLaC", "a FLAC recording, not a model: give it as audio"),
)
_HTML = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<!--")
_ONNX_SUFFIXES = (".onnx", ".ort")


def describe_foreign(path: Path) -> str | None:
    """What a file is and what to do about it, by its first bytes and name; ``None`` if it is not recognized.

    The text completes "PATH is ...". Formats that are read here under their own ending give ``None``.
    """
    path = Path(path)
    if path.is_dir():
        return None
    head = first_bytes(path, _HEAD)
    if len(head) < 4:
        return None if head else "empty or unreadable: fetch the file again"
    for magic, text in _MAGIC:
        if head.startswith(magic):
            return text
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
        return "a web page, not the weights: the download got an error or a login page; fetch the file itself"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    if _is_safetensors(head, path) and path.suffix != ".safetensors":
        return f"a safetensors file with the ending {path.suffix!r}: rename it to {path.stem}.safetensors"
    if _is_onnx(head, path):
        return "an ONNX graph, which is not read: fetch the model's safetensors or the original .pt"
    return None


def _is_safetensors(head: bytes, path: Path) -> bool:
    """A 64-bit length of the JSON header, then the header."""
    length = int.from_bytes(head[:8], "little")
    return head[8:10] == b'{"' and 2 <= length <= path.stat().st_size - 8


def _is_onnx(head: bytes, path: Path) -> bool:
    """ONNX has no magic: its first field is the version of the format, its second often the producer's name."""
    return path.suffix.lower() in _ONNX_SUFFIXES or (head[:1] == b"\x08" and 1 <= head[1] <= 20 and head[2] == 0x12)


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "a damaged ZIP archive (a PyTorch file is one): fetch the file again"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a NumPy archive: an MLX model is read by its folder, with config.json beside weights.npz"
            if path.suffix != ".npz"
            else "a NumPy archive without the config.json of an MLX model: give the model's folder"
        )
    if any(name.endswith((".mlmodel", ".mlmodelc", "coremldata.bin")) for name in names):
        return "a Core ML model in a ZIP archive, which is not read: fetch the original .pt or safetensors"
    return f"a ZIP archive ({', '.join(repr(name) for name in names[:3]) or 'empty'}): unpack it and give the folder"
