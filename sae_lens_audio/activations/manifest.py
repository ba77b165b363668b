"""``manifest.json``: origin, shards and completeness of a folder of activations."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any, TypeVar, get_args

import numpy
import safetensors
import torch

from hooked_whisper._support.storage import AnyPath, local_copy
from hooked_whisper.activations import RowUnit
from hooked_whisper.corpora import Cursor, Recording, fingerprint, own_text_fact
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.loading import weights_sha256
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.activations.shards import FORMAT, REMEDY, part_name, shard_name

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest. start, end: cursors in the corpus between which its windows lie."""

    file: str
    rows: int
    bytes: int
    sha256: str
    start: Cursor
    end: Cursor


@dataclass(frozen=True)
class RecordingEntry:
    """A recording of the corpus, with its number of rows and the seconds of sound that they are from."""

    id: str
    speaker: str
    rows: int
    seconds: float


@dataclass
class Manifest:
    """The content of the file.

    Attributes:
        header: identity of the store: model, weights, corpus, hook points, options. For a part of the corpus also
            ``part``: its first recording, and the first one after it.
        failures: recordings without rows, each with ``index``, ``id``, ``path`` and ``reason``.
        recordings: of the corpus or part, in order; empty until the store is complete.
        deviation: with ``window="sound"``, difference to the rows of full windows.
    """

    header: dict[str, Any]
    versions: dict[str, str]
    shards: list[ShardEntry] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    recordings: list[RecordingEntry] = field(default_factory=list)
    complete: bool = False
    deviation: dict[str, Any] | None = None

    @property
    def span(self) -> tuple[int, int]:
        """First recording, and the first one after the part."""
        first, end = self.header.get("part", (0, self.header["corpus_recordings"]))
        return first, end

    @property
    def cursor(self) -> Cursor:
        """Where collecting resumes."""
        return self.shards[-1].end if self.shards else (self.span[0], 0)

    @property
    def digest(self) -> str:
        """SHA-256 of the header and the shards' digests, which identifies the rows."""
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
            "recordings": [asdict(recording) for recording in self.recordings],
        }
        if self.deviation is not None:
            content["deviation"] = self.deviation
        return (json.dumps(content, indent=1) + "\n").encode()


def read_manifest(folder: AnyPath) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        CheckpointError: the file is missing, damaged, or not a manifest.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if (folder / part_name(0)).exists() or next(iter(folder.glob("part-*")), None) is not None:
            raise CheckpointError(
                f"{folder} is not complete: some parts of the corpus have not been collected; collect into it again "
                "with the same model, corpus and options to resume"
            ) from error
        raise CheckpointError(
            f"{folder} has no {MANIFEST}, so no activations: give the folder of an activation store"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {_LOST}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by `sae-lens-audio collect`: give another folder")
    if content.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {content.get('format_version')!r}, this sae_lens_audio reads {FORMAT_VERSION}: "
            "collect again, or read it with the version that wrote it"
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError, AttributeError, HookedWhisperError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}): {_LOST}") from error


_LOST = "without it the shards cannot be trusted; collect into another folder"


def _parsed(content: dict[str, Any]) -> Manifest:
    header = content["header"]
    _check_header(header)
    recordings = [_built(RecordingEntry, entry) for entry in content["recordings"]]
    complete = content["complete"] is True
    first, end = header.get("part", (0, header["corpus_recordings"]))
    if complete and len(recordings) != end - first:
        raise ValueError(f"{len(recordings)} recordings instead of {end - first}")
    if any(recording.rows < 0 for recording in recordings):
        raise ValueError("recordings with a negative number of rows")
    failures = content["failures"]
    if not all(isinstance(failure["index"], int) for failure in failures):
        raise ValueError("failures without an index")
    shards = [_shard_entry(number, entry) for number, entry in enumerate(content["shards"])]
    empty = not shards and "part" not in header
    if complete and (empty or sum(s.rows for s in shards) != sum(r.rows for r in recordings)):
        raise ValueError("shards and recordings have different numbers of rows")
    deviation = content.get("deviation")
    if deviation is not None and not isinstance(deviation, dict):
        raise ValueError(f"a deviation that is {deviation!r}")
    return Manifest(header, dict(content["versions"]), shards, list(failures), recordings, complete, deviation)


def _check_header(header: dict[str, Any]) -> None:
    """Check the parts of a header that are used."""
    CollectOptions(**header["options"])
    names = [hook["name"] for hook in header["hooks"]]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"hooks named {names}")
    if not all(isinstance(hook["width"], int) and hook["width"] > 0 for hook in header["hooks"]):
        raise ValueError("hooks without a width")
    if header["unit"] not in get_args(RowUnit):
        raise ValueError(f"rows of {header['unit']!r}")
    if not isinstance(header["corpus_recordings"], int):
        raise ValueError("a corpus of unknown size")
    part = header.get("part", [0, header["corpus_recordings"]])
    if len(part) != 2 or not all(isinstance(n, int) for n in part) or not 0 <= part[0] <= part[1]:
        raise ValueError(f"a part from {part}")


def _shard_entry(number: int, values: dict[str, Any]) -> ShardEntry:
    entry = _built(ShardEntry, values | {"start": tuple(values["start"]), "end": tuple(values["end"])})
    cursors = (*entry.start, *entry.end)
    if (
        # no path may lead out of the folder
        not (entry.file == shard_name(number) or re.fullmatch(r"part-\d{5}/shard-\d{5}\.safetensors", entry.file))
        or len(cursors) != 4
        or not all(isinstance(n, int) for n in cursors)
        or min(entry.rows, *cursors) < 0
        or 8 * entry.rows > entry.bytes  # the size of recording and position
        or not re.fullmatch("[0-9a-f]{64}", entry.sha256)
    ):
        raise ValueError(f"shard {number} is {values}")
    return entry


def _built(cls: type[T], values: dict[str, Any]) -> T:
    """Make an entry after checking the types of its values."""
    types: dict[str, Any] = {"str": str, "int": int, "float": (float, int), "Cursor": tuple}
    for spec in fields(cls):  # type: ignore[arg-type]
        if not isinstance(values[spec.name], types[str(spec.type)]) or isinstance(values[spec.name], bool):
            raise ValueError(f"{spec.name} is {values[spec.name]!r}")
    return cls(**values)


def header_of(corpus: Sequence[Recording], reader: RowReader) -> dict[str, Any]:
    """Return the identity of a store, as read back from JSON."""
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
        "options": {option.name: getattr(options, option.name) for option in fields(options)},
        "corpus_sha256": fingerprint(corpus),
        "corpus_recordings": len(corpus),
        **({"texts": texts} if (texts := own_text_fact(corpus)) else {}),
    }


def check_same(header: dict[str, Any], manifest: Manifest, folder: AnyPath) -> None:
    """
    Raises:
        HookedWhisperError: the folder has another store.
    """
    for key, value in header.items():
        if manifest.header.get(key) != value:
            raise HookedWhisperError(
                f"{folder} holds activations collected with another {key} ({manifest.header.get(key)!r}, not "
                f"{value!r}): choose another folder, or delete that one"
            )


def versions() -> dict[str, str]:
    """Return the versions that the bytes of a store may depend on."""
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


def damage(folder: AnyPath, entry: ShardEntry, verify: bool = True) -> str:
    """Return what is wrong with a shard's file, with the remedy; empty if nothing is."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            word = "truncated" if size < entry.bytes else "too long"
            return f"{path} is {word} ({size} bytes instead of {entry.bytes}): {REMEDY}"
        if verify:
            with local_copy(path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                    return f"{path} is damaged (its SHA-256 is not the manifest's): {REMEDY}"
    except FileNotFoundError:
        return f"{path} is missing: {REMEDY}"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror or error}): {REMEDY}"
    return ""
