"""Recognize files that are not checkpoints of a supported format, for error messages."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hooked_whisper.loading.binary import first_bytes

ADAPTER = "adapter_config.json"  # of PEFT
_HEAD = 512  # bytes
_CONVERT = "convert the original model again, to safetensors, CTranslate2 or whisper.cpp's ggml-*.bin"
# first bytes -> description of the file, and the fix
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
    (b"OggS", "an Ogg recording, not a model: give it as audio"),
    (b"ID3", "an MP3 recording, not a model: give it as audio"),
    (b"\x93NUMPY", "a NumPy array, not a model"),
)
_TFLITE, _TAR = (4, b"TFL3"), (257, b"ustar")  # offset, bytes
_SAVE_PLAIN = (
    "in the program that wrote it, save the Whisper model by transformers' save_pretrained, or for openai-whisper's "
    "classes as a dictionary of 'dims' and 'model_state_dict'"
)
_LORA = (
    "a LoRA (PEFT) adapter, which is only the change of a model: load both with peft, call merge_and_unload() and then "
    "save_pretrained, and give that folder"
)
_QUANTIZED = (".SCB", ".absmax", ".qweight", ".weight_format", ".quant_map")
_WRAPPERS = {
    "module": " (of DataParallel or DistributedDataParallel)",
    "_orig_mod": " (of torch.compile)",
    "_fsdp_wrapped_module": " (of FSDP)",
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".npz", ".pt", ".h5", ".onnx", ".gguf", ".tflite")
_FOLDERS = (  # suffix of a file name -> description of the folder, and the fix
    ("zero_to_fp32.py", "is a DeepSpeed checkpoint: run its zero_to_fp32.py, and give the folder with the result"),
    (".msgpack", "has Flax weights only ({}), which are not read: fetch the model's safetensors"),
    (".index", "has TensorFlow weights only ({}), which are not read: fetch the model's safetensors"),
    (".xml", "has an OpenVINO model ({}), which is not read: fetch the model's safetensors"),
    (".pt", "has no config.json; of its files, {} may be a checkpoint of openai-whisper: give that file"),
    (".ckpt", "has no config.json; of its files, {} may be a Lightning checkpoint: " + _SAVE_PLAIN),
    (".bin", "has no config.json; of its files, {} may be one of whisper.cpp or CTranslate2: give that file"),
    ("tokenizer.json", "has a tokenizer only ({}): fetch config.json and the weights too"),
    ("preprocessor_config.json", "has a feature extractor only ({}): fetch config.json and the weights too"),
)
_READ = (
    "config.json", "model.bin", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "weights.safetensors", "weights.npz",
)  # fmt: skip
_HTML = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<!--")
_ONNX_SUFFIXES = (".onnx", ".ort")


def describe_foreign(path: Path) -> str | None:
    """Describe a file and the fix, by its first bytes and name; return ``None`` if it is not recognized.

    The text completes "PATH is ...". Supported formats with their usual suffix give ``None``.
    """
    path = Path(path)
    if path.is_dir():
        return None
    head = first_bytes(path, _HEAD)
    if not head:
        return "empty or unreadable: fetch the file again"
    for magic, text in _MAGIC:
        if head.startswith(magic):
            return text
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
        return "a web page, not the weights: the download got an error or a login page; fetch the file itself"
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    if _is_safetensors(head, path) and path.suffix != ".safetensors":
        return f"a safetensors file with the suffix {path.suffix!r}: rename it to {path.stem}.safetensors"
    if _is_onnx(head, path):
        return "an ONNX graph, which is not read: fetch the model's safetensors or the original .pt"
    if head[_TFLITE[0] :].startswith(_TFLITE[1]):
        return "a TensorFlow Lite model, which is not read: fetch the model's safetensors or the original .pt"
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "a tar archive: unpack it and give the folder or the file in it"
    if path.suffix == ".json" and head.lstrip()[:1] in (b"{", b"["):
        return "a JSON file, not the weights: give the folder that it is in"
    if _is_text(head):
        start = " ".join(head[:60].decode("utf-8", "replace").split())
        return f"a text file, which begins with {start!r}, not the weights: fetch the file itself"
    return None


def describe_foreign_folder(folder: Path) -> str | None:
    """Describe a folder and the fix, by the names of its files; return ``None`` if it is not recognized.

    The text completes "folder PATH ...".
    """
    names = {path.name for path in folder.iterdir()}
    steps = [(int(match[1]), name) for name in names if (match := re.fullmatch(r"checkpoint-(\d+)", name))]
    if steps:
        last = folder / max(steps)[1]
        return f"is the output of a transformers Trainer without a final model: give one of its checkpoints, as {last}"
    if ADAPTER in names or any(name.startswith("adapter_model.") for name in names):
        return f"holds {_LORA}"
    for name in sorted(names):
        description = None if (folder / name).is_dir() else describe_foreign(folder / name)
        if description is not None and name.endswith(_WEIGHT_SUFFIXES):
            return f"has the weight file {name}, which is {description}"
    for suffix, text in _FOLDERS:
        files = sorted(name for name in names if name.endswith(suffix))
        if files:
            return text.format(files[0])
    return None


def describe_unreadable(path: Path) -> str | None:
    """Describe a file, or a file in a model folder, that is not in the expected format.

    The text is a sentence, ``None`` if no such file is recognized.
    """
    for file in [path / name for name in _READ] if path.is_dir() else [path]:
        head = first_bytes(file, 4)
        is_expected = (file.suffix == ".json" and head[:1] in (b"{", b"\xef")) or (
            file.suffix == ".npz" and head[:2] == b"PK"
        )
        description = None if is_expected or not file.is_file() else describe_foreign(file)
        if description is not None:
            return f"{file} is {description}"
    return None


def describe_content(data: Mapping[Any, Any]) -> str | None:
    """Describe an unpickled dictionary without openai-whisper's keys; return ``None`` if it is not recognized.

    The text completes "PATH holds ...".
    """
    if "pytorch-lightning_version" in data or {"state_dict", "global_step"} <= data.keys():
        return (
            "a Lightning checkpoint, whose weights are under 'state_dict' with the names of the LightningModule: "
            f"{_SAVE_PLAIN}"
        )
    if {"state", "param_groups"} <= data.keys():
        return "the state of an optimizer, not the weights: give the model's file"
    key = next(
        (k for k in ("state_dict", "model_state_dict", "model", "module") if isinstance(data.get(k), dict)), None
    )
    if key is not None:
        keys = ", ".join(sorted(map(str, data))[:5])
        return f"the checkpoint of a training loop (keys: {keys}), with weights under {key!r}: {_SAVE_PLAIN}"
    names = [name for name in data if isinstance(name, str)]
    if any("token_embedding" in name or "embed_tokens" in name for name in names):
        return f"a bare state_dict, which does not say the sizes of the model: {_SAVE_PLAIN}"
    return _LORA if _has_lora(names) else None


def describe_names(names: Collection[str], expected: Collection[str]) -> str | None:
    """Describe tensors whose names differ from the ``expected`` ones; return ``None`` if they are not recognized.

    The text completes "PATH holds ...".
    """
    if _has_lora(names):
        return _LORA
    quantized = next((name for name in names if name.endswith(_QUANTIZED)), None)
    if quantized is not None and quantized not in expected:
        return f"weights quantized by bitsandbytes, GPTQ or AWQ ({quantized}), which are not read: save them in float16"
    expected_names = set(expected)
    prefixes: Counter[str] = Counter()
    for name in set(names) - expected_names:
        words = name.split(".")
        wrapper = next((word for word in words if word in _WRAPPERS), None)
        if wrapper and ".".join(word for word in words if word not in _WRAPPERS) in expected_names:
            prefixes[f"{wrapper}."] += 1
            continue
        start = next((k for k in range(1, len(words)) if ".".join(words[k:]) in expected_names), None)
        if start is not None:
            prefixes[".".join(words[:start]) + "."] += 1
    if not prefixes:
        return None
    prefix, n = prefixes.most_common(1)[0]
    if n < len(names) / 2:
        return None
    wrapper_text = next((text for word, text in _WRAPPERS.items() if word in prefix.split(".")), "")
    return (
        f"weights whose names begin with {prefix!r}{wrapper_text}: save the state_dict "
        f"of the model inside, or remove {prefix!r} from the names"
    )


def _has_lora(names: Collection[str]) -> bool:
    return any("lora_A" in name or "lora_B" in name or name.startswith("base_model.model.") for name in names)


def _is_text(head: bytes) -> bool:
    """Whether the first bytes are printable characters and white space."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD or error.start < len(head) - 3:  # not a character cut off at the end
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Whether a file starts with a 64-bit length and a JSON header of that length."""
    length = int.from_bytes(head[:8], "little")
    return head[8:10] == b'{"' and 2 <= length <= path.stat().st_size - 8


def _is_onnx(head: bytes, path: Path) -> bool:
    """Whether a file looks like ONNX, which has no magic: a format version, then usually the producer's name."""
    return path.suffix.lower() in _ONNX_SUFFIXES or (
        len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] == 0x12
    )


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "a damaged ZIP archive (a PyTorch file is one): fetch the file again"
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return (
            "a TorchScript program, not a checkpoint: it holds code, which is not run; save the model's state_dict "
            "with its sizes instead"
        )
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
