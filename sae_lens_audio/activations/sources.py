"""Rows of activations in blocks: what training reads, wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError


@dataclass(frozen=True, eq=False)
class ActivationChunk:
    """Rows that are in memory together; those of all hooks in the same order.

    rows: ``[row, d]`` for each hook, in float16, bfloat16 or float32.
    recording: place of each row's recording in the corpus.
    position: encoder position (20 ms each) from the start of the recording; for decoder points the number of the token
        in the text.
    """

    rows: tuple[Float[Tensor, "row _"], ...]
    recording: Int[Tensor, "row"]
    position: Int[Tensor, "row"]

    def __len__(self) -> int:
        return len(self.recording)

    def taken(self, rows: Int[np.ndarray, "_"]) -> ActivationChunk:
        """Some of the rows, copied."""
        at = torch.from_numpy(rows)
        return ActivationChunk(tuple(x[at] for x in self.rows), self.recording[at], self.position[at])


@runtime_checkable
class ActivationSource(Protocol):
    """A source of rows. It has no state: epoch and index settle a block entirely, each row comes once an epoch."""

    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    ids: Sequence[str]

    def describe(self) -> dict[str, Any]:
        """JSON: what makes two sources the same."""
        ...

    def n_chunks(self, epoch: int) -> int: ...

    def chunk(self, epoch: int, index: int) -> ActivationChunk: ...


class TensorActivations:
    """Rows that are in memory already, as one block.

    Args:
        rows: ``[row, d]``, or one such tensor for each hook, all with equally many rows.
        recording, position: of each row; all of one recording, in order, where they are not known.
        ids: names of the recordings.

    Raises:
        HookedWhisperError: no rows, unequal numbers of them, integers, NaN or infinity.
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
            raise HookedWhisperError(f"rows are [row, d], equally many for each hook and at least one, not {shapes}")
        for name, x in by_hook.items():
            if not x.is_floating_point():
                raise HookedWhisperError(f"{name}: rows are floating point, not {x.dtype}")
            if not (good := x.isfinite().all(1)).all():
                raise HookedWhisperError(f"{name}: row {int((~good).nonzero()[0])} is not finite: leave it out")
        self.hooks = tuple(by_hook)
        self.widths = tuple(x.shape[1] for x in by_hook.values())
        recording = torch.zeros(n, dtype=torch.int32) if recording is None else recording
        position = torch.arange(n, dtype=torch.int32) if position is None else position
        self.ids: Sequence[str] = [str(k) for k in range(int(recording.max()) + 1)] if ids is None else list(ids)
        self._block = ActivationChunk(tuple(by_hook.values()), recording, position)
        self._digest = ""

    def describe(self) -> dict[str, Any]:
        if not self._digest:
            digest = hashlib.sha256()
            for x in self._block.rows:
                digest.update(f"{x.dtype} {list(x.shape)} ".encode())
                digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()
        return {"source": "tensors", "hooks": list(self.hooks), "sha256": self._digest}

    def n_chunks(self, epoch: int) -> int:
        return 1

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        check_index(index, 1)
        return self._block


def check_index(index: int, n: int) -> None:
    """Raises ``HookedWhisperError`` for a block that there is not."""
    if not 0 <= index < n:
        raise HookedWhisperError(f"there is no block {index}: this epoch has {n}")


def chosen_recordings(recordings: Sequence[int] | Int[np.ndarray, "chosen"], n: int) -> Int[np.ndarray, "chosen"]:
    """Places in a corpus of ``n``, sorted, each once.

    Raises:
        HookedWhisperError: none, or one outside.
    """
    found = np.unique(np.asarray(recordings, dtype=np.int64))
    if not len(found) or found[0] < 0 or found[-1] >= n:
        given = "none" if not len(found) else f"{found[0]} to {found[-1]}"
        raise HookedWhisperError(f"recordings are places in a corpus of {n}, got {given}")
    return found


def digest_of(recordings: Int[np.ndarray, "chosen"]) -> str:
    """SHA-256 of places in a corpus."""
    return hashlib.sha256(recordings.astype("<i8").tobytes()).hexdigest()
