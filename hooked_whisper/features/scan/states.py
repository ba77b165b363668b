"""State files of unfinished scans: for each process, one file with its counts so far."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from hooked_whisper._support.storage import AnyPath, local_copy, write_atomic
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.features.scan.reader import FeatureReader

_PREFIX, _SUFFIX = "state-", ".safetensors"


@dataclass
class Progress:
    """The part of the corpus that a state covers.

    Attributes:
        chunks: numbers of the chunks that are done.
        samples: 16 kHz samples of sound.
        recordings: number of recordings.
        failures: recordings that could not be read.
        replaces: state files whose counts are included in this one; an interrupted run may leave them in the folder.
    """

    chunks: list[int] = field(default_factory=list)
    samples: int = 0
    recordings: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    replaces: list[str] = field(default_factory=list)

    def add(self, other: Progress) -> None:
        self.chunks += other.chunks
        self.samples += other.samples
        self.recordings += other.recordings
        self.failures += other.failures


def new_name() -> str:
    return f"{_PREFIX}{uuid.uuid4().hex[:12]}{_SUFFIX}"


class StateFiles:
    """The state files in a folder, which all belong to one scan.

    Raises:
        CheckpointError: a file cannot be read.
        HookedWhisperError: a file belongs to another scan.
    """

    def __init__(self, folder: AnyPath, header: Mapping[str, Any]) -> None:
        self.folder, self.header = folder, header

    def states(self) -> dict[str, Progress]:
        """Progress by file name, without files that another file replaces."""
        if not self.folder.exists():
            return {}
        names = sorted(path.name for path in self.folder.iterdir())
        names = [name for name in names if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
        states = {name: self._progress(name) for name in names}
        replaced = {name for state in states.values() for name in state.replaces}
        return {name: state for name, state in states.items() if name not in replaced}

    def write(self, name: str, readers: Sequence[FeatureReader], progress: Progress) -> None:
        """Write a state file."""
        tensors = {
            f"{i}.{key}": tensor.contiguous()
            for i, reader in enumerate(readers)
            for key, tensor in reader.state().items()
        }
        metadata = {"header": json.dumps(self.header), "progress": json.dumps(asdict(progress))}
        write_atomic(self.folder / name, save(tensors, metadata))

    def read(self, name: str, readers: Sequence[FeatureReader]) -> None:
        """Load a state file into readers of the same hook points and bases."""
        path = self.folder / name
        try:
            tensors = load_file(local_copy(path))
        except (SafetensorError, OSError) as error:
            raise _broken(path, error) from error
        for i, reader in enumerate(readers):
            prefix = f"{i}."
            reader.load({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Delete all state files, replaced and half-written ones too."""
        paths: list[AnyPath] = list(self.folder.iterdir())
        for path in paths:
            if path.name.lstrip(".").startswith(_PREFIX):
                path.unlink(missing_ok=True)

    def _progress(self, name: str) -> Progress:
        path = self.folder / name
        try:
            with safe_open(local_copy(path), "pt") as file:
                metadata = file.metadata()
            header, progress = json.loads(metadata["header"]), Progress(**json.loads(metadata["progress"]))
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise _broken(path, error) from error
        check_same(self.header, header, self.folder)
        return progress


def _broken(path: AnyPath, error: Exception) -> CheckpointError:
    return CheckpointError(f"the checkpoint {path} cannot be read ({error}): delete it to scan its recordings again")


def check_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], folder: AnyPath) -> None:
    """Check that a folder's scan is this one.

    Raises:
        HookedWhisperError: the folder has another scan.
    """
    for key, value in json.loads(json.dumps(ours)).items():
        if theirs.get(key) != value:
            raise HookedWhisperError(
                f"{folder} has a scan with {key} {theirs.get(key)!r}, expected {value!r}: choose another folder, or "
                "delete that one"
            )
