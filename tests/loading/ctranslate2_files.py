"""CTranslate2 models written by its converter, and a writer for files that the converter does not produce."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ctranslate2.converters import TransformersConverter
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

SOT, NO_TIMESTAMPS = 27, 29  # in the vocabulary below
_TOKENS = [*"abcdefghijklmnopqrstuvwxyz", "<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>"]
_TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")


def save_transformers(model: WhisperForConditionalGeneration, folder: Path) -> Path:
    """A transformers folder with a tokenizer, which the converter requires."""
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(_TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def convert(transformers_folder: Path, folder: Path, quantization: str | None) -> Path:
    TransformersConverter(str(transformers_folder)).convert(str(folder), quantization=quantization)
    return folder


@dataclass
class RawFile:
    """The content of ``model.bin``, to be changed and written again."""

    variables: list[tuple[str, tuple[int, ...], str, bytes]] = field(default_factory=list)
    aliases: list[tuple[str, str]] = field(default_factory=list)
    version: int = 6
    spec: str = "WhisperSpec"
    revision: int = 3

    @classmethod
    def read(cls, path: Path) -> RawFile:
        data, position = path.read_bytes(), 0

        def number(code: str) -> int:
            nonlocal position
            (value,) = struct.unpack_from("<" + code, data, position)
            position += struct.calcsize("<" + code)
            return value

        def string() -> str:
            nonlocal position
            length = number("H")
            position += length
            return data[position - length : position - 1].decode()

        version, spec, revision = number("I"), string(), number("I")
        variables = []
        for _ in range(number("I")):
            name = string()
            shape = tuple(number("I") for _ in range(number("B")))
            dtype, n_bytes = _TYPES[number("B")], number("I")
            variables.append((name, shape, dtype, data[position : position + n_bytes]))
            position += n_bytes
        aliases = [(string(), string()) for _ in range(number("I"))]
        assert position == len(data)
        return cls(variables, aliases, version, spec, revision)

    def array(self, name: str) -> np.ndarray:
        shape, dtype, data = next(values for n, *values in self.variables if n == name)
        return np.frombuffer(data, dtype).reshape(shape).copy()

    def put(self, name: str, value: np.ndarray) -> RawFile:
        """Add or replace a variable."""
        entry = (name, value.shape, str(value.dtype), value.tobytes())
        names = [variable[0] for variable in self.variables]
        if name in names:
            self.variables[names.index(name)] = entry
        else:
            self.variables.append(entry)
        return self

    def drop(self, name: str) -> RawFile:
        self.variables = [variable for variable in self.variables if variable[0] != name]
        return self

    def to_bytes(self) -> bytes:
        def string(text: str) -> bytes:
            return struct.pack("<H", len(text.encode()) + 1) + text.encode() + b"\0"

        chunks = [struct.pack("<I", self.version), string(self.spec), struct.pack("<I", self.revision)]
        chunks.append(struct.pack("<I", len(self.variables)))
        for name, shape, dtype, data in self.variables:
            chunks.append(string(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape))
            chunks.append(struct.pack("<BI", _TYPES.index(dtype), len(data)) + data)
        chunks.append(struct.pack("<I", len(self.aliases)))
        chunks += [string(alias) + string(target) for alias, target in self.aliases]
        return b"".join(chunks)


def split_file(path: Path, cuts: Sequence[int]) -> list[Path]:
    """Cut a file at these bytes into ``path.part1``, ``path.part2``, ..."""
    data, bounds = path.read_bytes(), [0, *cuts, path.stat().st_size]
    parts = [path.with_name(f"{path.name}.part{i}") for i in range(1, len(bounds))]
    for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
        part.write_bytes(data[start:stop])
    return parts
