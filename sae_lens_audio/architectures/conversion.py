"""How an architecture describes itself to the readers and writers of SAE files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hooked_whisper.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class SAELensForm:
    """An SAE as SAELens reads it.

    architecture: SAELens' name.
    tensors: content of ``sae_weights.safetensors``.
    keys: further keys of ``cfg.json``.
    saved: values that only this library reads, stored in its block of the metadata.
    """

    architecture: str
    tensors: dict[str, Tensor]
    keys: Mapping[str, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DictionaryLearningForm:
    """How a class of dictionary_learning stores an architecture.

    names: tensor in the file -> our tensor; transposed if the former ends in ``.weight``.
    centered: whether ``b_dec`` is subtracted from the input.
    unit_rows: whether its loader scales the decoder rows to norm 1.
    """

    names: Mapping[str, str]
    centered: bool = True
    unit_rows: bool = False


LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
"""Tensor names of dictionary_learning's classes with ``torch.nn.Linear`` layers."""
PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
"""Tensor names of its classes with plain parameters."""


def read_size(data: Mapping[str, Any], key: str, source: object) -> int:
    """Return ``data[key]``.

    Raises:
        CheckpointError: the key is missing, or its value is not a positive integer.
    """
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        problem = "missing" if key not in data else f"{value!r}"
        raise CheckpointError(f"{source}: {key!r} must be a positive integer, it is {problem}")
    return value


def read_flag(data: Mapping[str, Any], key: str, default: bool, source: object) -> bool:
    """Return ``data[key]``, or ``default`` if the key is missing.

    Raises:
        CheckpointError: the value is neither true nor false.
    """
    value = data.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{source}: {key!r} must be true or false, not {value!r}")
    return value


def read_saelens_field(data: Mapping[str, Any], key: str, name: str, annotation: str, source: object) -> Any:
    """Return ``data[key]`` converted to the type annotation of the configuration field ``name``.

    Raises:
        CheckpointError: the value has another type.
    """
    if annotation == "int":
        return read_size(data, key, source)
    value = data.get(key)
    if value is None and annotation.endswith("| None"):
        return None
    if annotation.startswith("tuple"):
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise CheckpointError(f"{source}: {key!r} must be a list of integers, not {value!r}")
        return tuple(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(f"{source}: {name!r} must be a number, not {value!r}")
    return value
