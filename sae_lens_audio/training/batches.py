"""Shuffled batches of rows, prepared in advance by a thread and reproducible after an interruption."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_names, renamed_property
from hooked_whisper._support.showing import Showing
from sae_lens_audio.activations import ActivationChunk, ActivationSource
from sae_lens_audio.errors import TrainingError

_AHEAD = 2  # batches prepared in advance


@dataclass(frozen=True)
class RowCursor:
    """The next row to serve: ``row`` of the shuffled ``chunk``."""

    epoch: int = 0
    chunk: int = 0
    row: int = 0

    @classmethod
    def from_json(cls, facts: Mapping[str, int]) -> RowCursor:
        """Read ``asdict`` of a cursor; version 0.1 called a chunk a block."""
        return cls(facts["epoch"], facts["chunk"] if "chunk" in facts else facts["block"], facts["row"])

    block = renamed_property("block", "chunk")


@dataclass(frozen=True, eq=False, repr=False)
class Batch(Showing):
    """The rows of one step for this process, in float32.

    rows: one tensor per hook point.
    indices: of the rows in their chunk. all_indices: those of the whole batch, over all processes.
    start, end: cursors of the first row, and of the first row of the next batch.
    """

    rows: tuple[Tensor, ...]
    indices: Int[Tensor, "row"]
    all_indices: Int[Tensor, "batch"]
    chunk: ActivationChunk
    start: RowCursor
    end: RowCursor

    def of_all_processes(self) -> tuple[Tensor, ...]:
        """Return the rows of the whole batch, including those of other processes."""
        if len(self.indices) == len(self.all_indices):
            return self.rows
        return tuple(_gather(rows, self.all_indices) for rows in self.chunk.rows)


_OLD_NAMES = {"chosen": "indices", "whole": "all_indices", "block": "chunk", "at": "start", "after": "end"}
for _old, _new in _OLD_NAMES.items():
    setattr(Batch, _old, renamed_property(_old, _new))


@dataclass(frozen=True)
class Batches:
    """Rows of every chunk in random order, determined by seed, epoch and chunk; each process has a share of each batch.

    Rows at the end of a chunk that do not fill a batch are dropped; each epoch drops different ones.

    Attributes:
        size: rows of a batch, over all processes.
        rank, n_ranks: which share of each batch to make.
    """

    source: ActivationSource
    size: int
    seed: int = 0
    rank: int = 0
    n_ranks: int = 1

    def __post_init__(self) -> None:
        if self.size % self.n_ranks:
            raise TrainingError(f"{self.n_ranks} processes cannot share batches of {self.size} rows evenly")

    blocks = renamed_property("blocks", "source")

    def start(self, cursor: RowCursor) -> Feed:
        """Return endless batches from a cursor on, prepared by another thread. Close the feed after use."""
        return Feed(self._batches(cursor))

    def _batches(self, cursor: RowCursor) -> Iterator[Batch]:
        share = self.size // self.n_ranks
        mine = slice(self.rank * share, (self.rank + 1) * share)
        epoch, first_chunk, first_row = cursor.epoch, cursor.chunk, cursor.row
        while True:
            served = first_chunk > 0 or first_row > 0  # the rest of a resumed epoch may be too short for a batch
            for number in range(first_chunk, self.source.n_chunks(epoch)):
                chunk = self.source.chunk(epoch, number)
                n = len(chunk.recording)
                shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(self._seed_of(epoch, number)))
                for row in range(first_row, n - self.size + 1, self.size):
                    all_indices = shuffled[row : row + self.size]
                    indices, served = all_indices[mine], True
                    rows = tuple(_gather(x, indices) for x in chunk.rows)
                    start, end = RowCursor(epoch, number, row), RowCursor(epoch, number, row + self.size)
                    yield Batch(rows, indices, all_indices, chunk, start, end)
                first_row = 0
            if not served:
                raise TrainingError(
                    f"no chunk of the activations has the {self.size} rows of a batch: use smaller batches, or more "
                    "activations (or more shards or recordings per chunk)"
                )
            epoch, first_chunk, first_row = epoch + 1, 0, 0

    def _seed_of(self, epoch: int, chunk: int) -> int:
        return (self.seed * 1_000_003 + epoch) * 1_000_003 + chunk & (2**63 - 1)


def _gather(rows: Tensor, indices: Int[Tensor, "row"]) -> Tensor:
    if rows.device.type == "cpu" and rows.dtype in (torch.float16, torch.float32):
        # numpy uses one core: torch would use more threads, on the cores that training needs
        return torch.from_numpy(np.take(rows.numpy(), indices.numpy(), axis=0).astype(np.float32, copy=False))
    return rows.index_select(0, indices.to(rows.device)).float()


class Feed:
    """An iterator whose items another thread prepares. An error is raised in place of its item."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        # torch's number of threads is set per thread, and may affect sums
        self._thread = threading.Thread(
            target=self._fill, args=(batches, torch.get_num_threads()), name="batches", daemon=True
        )
        self._thread.start()

    def _fill(self, batches: Iterator[Batch], threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                for batch in batches:
                    if not self._put(batch):
                        return
        except BaseException as error:  # raised by __next__
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


__getattr__ = renamed_names(__name__, {"Place": "RowCursor"})
