"""Sources of activations for training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import ArgumentError, ShapeError


@dataclass(frozen=True, eq=False, repr=False)
class ActivationChunk(Showing):
    """Rows in memory, in the same order for all hook points.

    rows: ``[row, d]`` for each hook point, in float16, bfloat16 or float32.
    recording: index of each row's recording in the corpus.
    position: encoder position (20 ms each) from the start of the recording; for decoder points, index of the token in
        the text.
    """

    rows: tuple[Float[Tensor, "row _"], ...]
    recording: Int[Tensor, "row"]
    position: Int[Tensor, "row"]

    def __len__(self) -> int:
        return len(self.recording)

    def select(self, indices: Int[np.ndarray, "_"]) -> ActivationChunk:
        """Return a copy of some rows."""
        index = torch.from_numpy(indices)
        return ActivationChunk(tuple(x[index] for x in self.rows), self.recording[index], self.position[index])

    taken = renamed_method("taken", "select")


@runtime_checkable
class ActivationSource(Protocol):
    """A stateless source of rows: epoch and index determine a chunk. Each row occurs once per epoch."""

    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    ids: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """Return JSON values that identify the rows."""
        ...

    def n_chunks(self, epoch: int) -> int: ...

    def chunk(self, epoch: int, index: int) -> ActivationChunk: ...


class DeprecatedSourceNames:
    """The methods of a source under their names of version 0.1, which warn."""

    n_blocks = renamed_method("n_blocks", "n_chunks")
    block = renamed_method("block", "chunk")


class TensorActivations(DeprecatedSourceNames):
    """Rows in memory, as one chunk.

    Args:
        rows: ``[row, d]``, or one such tensor per hook point, all with the same number of rows.
        recording, position: of each row; by default all rows are of one recording, in order.
        ids: names of the recordings.

    Raises:
        ShapeError: no rows, different numbers of rows, integers, NaN or infinity.
    """

    def __init__(
        self,
        rows: Tensor | Mapping[str, Tensor],
        recording: Int[Tensor, "row"] | None = None,
        position: Int[Tensor, "row"] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        by_hook = {"rows": rows} if isinstance(rows, Tensor) else dict(rows)
        lengths = {name: len(x) if x.dim() == 2 else -1 for name, x in by_hook.items()}
        n = next(iter(lengths.values()), -1)
        if n < 1 or set(lengths.values()) != {n}:
            shapes = {name: list(x.shape) for name, x in by_hook.items()}
            raise ShapeError(f"rows are [row, d], equally many for each hook and at least one, not {shapes}")
        for name, x in by_hook.items():
            if not x.is_floating_point():
                raise ShapeError(f"{name}: rows are floating point, not {x.dtype}")
            if not (good := x.isfinite().all(1)).all():
                raise ShapeError(f"{name}: row {int((~good).nonzero()[0])} is not finite: leave it out")
        self.hooks = tuple(by_hook)
        self.widths = tuple(x.shape[1] for x in by_hook.values())
        recording = torch.zeros(n, dtype=torch.int32) if recording is None else recording
        position = torch.arange(n, dtype=torch.int32) if position is None else position
        self.ids: Sequence[str] = [str(k) for k in range(int(recording.max()) + 1)] if ids is None else list(ids)
        self._chunk = ActivationChunk(tuple(by_hook.values()), recording, position)
        self._digest = ""

    def describe(self) -> dict[str, Any]:
        if not self._digest:
            digest = hashlib.sha256()
            for x in self._chunk.rows:
                digest.update(f"{x.dtype} {list(x.shape)} ".encode())
                digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()
        return {"source": "tensors", "hooks": list(self.hooks), "sha256": self._digest}

    def n_chunks(self, epoch: int) -> int:
        return 1

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        check_index(index, 1)
        return self._chunk


def check_index(index: int, n: int) -> None:
    """
    Raises:
        ArgumentError: there is no chunk of this index.
    """
    if not 0 <= index < n:
        raise ArgumentError(f"there is no chunk {index}: this epoch has {n}")


def selected_recordings(recordings: Sequence[int] | Int[np.ndarray, "selected"], n: int) -> Int[np.ndarray, "selected"]:
    """Return the distinct indices in a corpus of ``n``, sorted.

    Raises:
        ArgumentError: there is none, or one is out of range.
    """
    indices = np.unique(np.asarray(recordings, dtype=np.int64))
    if not len(indices) or indices[0] < 0 or indices[-1] >= n:
        span = f"{indices[0]} to {indices[-1]}" if len(indices) else "none"
        raise ArgumentError(f"recordings must be indices in a corpus of {n}, got {span}")
    return indices


def digest_of(recordings: Int[np.ndarray, "selected"]) -> str:
    """Return the SHA-256 of indices in a corpus."""
    return hashlib.sha256(recordings.astype("<i8").tobytes()).hexdigest()
