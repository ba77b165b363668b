"""``manifest.json``: what a folder of activations was made from, which shards it has, and whether it is complete."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch

from hooked_whisper.corpora import Cursor, Recording, fingerprint
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.weights import weights_sha256
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.activations.shards import FORMAT, REMEDY, shard_name

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ShardEntry:
    """A shard as the manifest has it: start and end are the cursors between which its windows lie in the corpus."""

    file: str
    rows: int
    bytes: int
    sha256: str
    start: Cursor
    end: Cursor


@dataclass(frozen=True)
class RecordingEntry:
    """A recording of the corpus: how many rows it has, and the seconds of sound that they are from."""

    id: str
    speaker: str
    rows: int
    seconds: float


@dataclass
class Manifest:
    """The file's content.

    Attributes:
        header: what makes two harvests the same: model, weights, corpus, hooks, options.
        failures: recordings without rows, each with ``index``, ``id``, ``path`` and ``reason``.
        recordings: all of the corpus, in its order; empty before the harvest is complete.
    """

    header: dict[str, Any]
    versions: dict[str, str]
    shards: list[ShardEntry] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    recordings: list[RecordingEntry] = field(default_factory=list)
    complete: bool = False

    @property
    def cursor(self) -> Cursor:
        """Where the harvest goes on."""
        return self.shards[-1].end if self.shards else (0, 0)

    @property
    def digest(self) -> str:
        """SHA-256 of the shards' digests and the header: whether two folders hold the same rows."""
        content = [json.dumps(self.header, sort_keys=True), *(shard.sha256 for shard in self.shards)]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    def encoded(self) -> bytes:
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": self.complete,
            "rows": sum(shard.rows for shard in self.shards),
            "cursor": self.cursor,
            "versions": self.versions,
            "header": self.header,
            "shards": [asdict(shard) for shard in self.shards],
            "failures": self.failures,
            "recordings": [asdict(one) for one in self.recordings],
        }
        return (json.dumps(content, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises ``CheckpointError`` for a file that is missing, damaged, or not ours."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {MANIFEST}, so no activations: give the folder of a harvest") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {_LOST}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by a harvest of activations: give another folder")
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {content.get('format_version')!r}, this sae_lens_audio reads {FORMAT_VERSION}: "
            "harvest again, or read it with the version that wrote it"
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}): {_LOST}") from error


_LOST = "without it the shards cannot be trusted; harvest into another folder"


def _parsed(content: dict[str, Any]) -> Manifest:
    header, versions = content["header"], content["versions"]
    for hook in header["hooks"]:
        if not isinstance(hook["name"], str) or not isinstance(hook["width"], int) or hook["width"] < 1:
            raise ValueError(f"a hook {hook}")
    shards = []
    for number, one in enumerate(content["shards"]):
        entry = ShardEntry(**one | {"start": tuple(one["start"]), "end": tuple(one["end"])})
        numbers = (entry.rows, entry.bytes, *entry.start, *entry.end)
        if (
            entry.file != shard_name(number)  # so that no path leads out of the folder
            or not all(isinstance(n, int) and n >= 0 for n in numbers)
            or not re.fullmatch("[0-9a-f]{64}", entry.sha256)
        ):
            raise ValueError(f"shard {number} is {one}")
        shards.append(entry)
    recordings = [RecordingEntry(**one) for one in content["recordings"]]
    complete = content["complete"] is True
    if complete and len(recordings) != header["corpus_recordings"]:
        raise ValueError(f"{len(recordings)} recordings instead of {header['corpus_recordings']}")
    failures = content["failures"]
    if not all(isinstance(one["index"], int) for one in failures):
        raise ValueError("failures without index")
    return Manifest(header, versions, shards, failures, recordings, complete)


def header_of(corpus: Sequence[Recording], reader: RowReader) -> dict[str, Any]:
    """What makes two harvests the same, as JSON gives it back."""
    model, options = reader.model, reader.options
    hooks = zip(reader.hooks, reader.axes, reader.widths, strict=True)
    return {
        "model": model.cfg.name,
        "checkpoint_sha256": weights_sha256(model),
        "sample_rate": model.time.sample_rate,
        "seconds_per_position": model.time.seconds_per_position,
        "unit": reader.unit,
        "hooks": [{"name": name, "axes": list(axes), "width": width} for name, axes, width in hooks],
        "padding": options.padding_rule,
        "options": {one.name: getattr(options, one.name) for one in fields(options)},
        "corpus_sha256": fingerprint(corpus),
        "corpus_recordings": len(corpus),
    }


def check_same(header: dict[str, Any], found: Manifest, folder: Path) -> None:
    """Raises ``HookedWhisperError`` for a folder with another harvest."""
    for key, value in header.items():
        if found.header.get(key) != value:
            raise HookedWhisperError(
                f"{folder} holds a harvest with another {key} ({found.header.get(key)!r}, not {value!r}): "
                "choose another folder, or delete that one"
            )


def versions() -> dict[str, str]:
    """Of everything that the bytes of a harvest may depend on."""
    try:
        ours = metadata.version("hooked-whisper")
    except metadata.PackageNotFoundError:
        ours = "0 (not installed)"
    others = {"torch": torch, "numpy": numpy, "safetensors": safetensors}
    return {
        "hooked-whisper": ours,
        "python": platform.python_version(),
        **{name: str(module.__version__) for name, module in others.items()},
    }


def damage(folder: Path, entry: ShardEntry, verify: bool = True) -> str:
    """What is wrong with a shard's file, in a sentence with its remedy; empty if nothing is."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            word = "truncated" if size < entry.bytes else "too long"
            return f"{path} is {word} ({size} bytes instead of {entry.bytes}): {REMEDY}"
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                    return f"{path} is damaged (its SHA-256 is not the manifest's): {REMEDY}"
    except FileNotFoundError:
        return f"{path} is missing: {REMEDY}"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error}): {REMEDY}"
    return ""
