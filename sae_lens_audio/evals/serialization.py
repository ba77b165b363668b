"""Exact conversion of scores to JSON and back. Values that are not finite become ``null``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hooked_whisper.errors import CheckpointError
from hooked_whisper.findings.core.finding import Estimate

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Convert to dicts, lists, strings and finite numbers."""
    if isinstance(value, Estimate):
        return [plain(x) for x in (value.value, value.low, value.high)]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def to_text(data: Mapping[str, Any]) -> str:
    """Return the JSON of a :func:`plain` mapping, with one line per entry of each section."""

    def dumped(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            inside = ",\n".join(f"  {dumped(k)}: {dumped(v)}" for k, v in value.items())
            lines.append(f" {dumped(key)}: {{\n{inside}\n }}")
        elif isinstance(value, list) and value:
            inside = ",\n".join(f"  {dumped(v)}" for v in value)
            lines.append(f" {dumped(key)}: [\n{inside}\n ]")
        else:
            lines.append(f" {dumped(key)}: {dumped(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_scores(file: Path, formats: Sequence[str], what: str, give: str, again: str) -> dict[str, Any]:
    """Read the JSON object of a file of scores.

    Args:
        formats: those that are readable; the first is the one of this version.
        what: ``"a benchmark"``, for messages. give: ``"the folder of a benchmark"``. again: ``"run the benchmark"``.

    Raises:
        CheckpointError: the file cannot be read, is not JSON, or has another format.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): give {give}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error}): {again} again") from error
    if not isinstance(data, dict) or data.get("format") not in formats:
        raise CheckpointError(f"{file} is not {what} of this version ({formats[0]}): {again} again")
    return data


def restored(cls: type[T], data: Any, source: object, **nested: Any) -> T:
    """Undo :func:`plain` for a dataclass of numbers, arrays and strings. ``nested``: values of its other fields.

    Raises:
        CheckpointError: a field is missing or has the wrong type; the message names it and ``source``.
    """
    values = dict(nested)
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name in nested:
            continue
        if not isinstance(data, Mapping) or field.name not in data:
            raise CheckpointError(f"{source} has no {field.name!r} of {cls.__name__}: evaluate again")
        try:
            values[field.name] = _restored(str(field.type), data[field.name])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: {field.name!r} of {cls.__name__} is damaged ({error})") from error
    return cls(**values)


def _restored(annotation: str, value: Any) -> Any:
    if "np.ndarray" in annotation:
        dtype = {"Float": np.float64, "Int": np.int64, "Bool": np.bool_}[annotation.split("[", 1)[0]]
        return np.array(_with_nan(value) if dtype is np.float64 else value, dtype=dtype)
    if annotation == "float":
        return np.nan if value is None else float(value)
    return tuple(value) if annotation.startswith("tuple") else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_nan(v) for v in value]
    return np.nan if value is None else value
