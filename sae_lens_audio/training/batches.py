"""Batches of rows out of blocks: shuffled, made ahead of their use, and the same again after a stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sae_lens_audio.activations import ActivationChunk, ActivationSource
from sae_lens_audio.errors import TrainingError

_AHEAD = 2  # batches that may wait


@dataclass(frozen=True)
class Place:
    """The next row to serve: ``row`` of the shuffled block."""

    epoch: int = 0
    block: int = 0
    row: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one step, of this process; float32.

    rows: one tensor per hook point.
    chosen: of which rows of its block; whole: of which the batch of all processes is made.
    at, after: where it begins, and where the next one does.
    """

    rows: tuple[Tensor, ...]
    chosen: Int[Tensor, "row"]
    whole: Int[Tensor, "batch"]
    block: ActivationChunk
    at: Place
    after: Place

    def of_all_processes(self) -> tuple[Tensor, ...]:
        """The rows of the whole batch, wherever they are trained on."""
        if len(self.chosen) == len(self.whole):
            return self.rows
        return tuple(_gather(one, self.whole) for one in self.block.rows)


@dataclass(frozen=True)
class Batches:
    """Rows of every block in a random order that seed, epoch and block settle; every process has its share of each.

    Rows at the end of a block that do not fill a batch are left out; in the next epoch these are others.

    Attributes:
        size: rows of a batch, over all processes.
        rank, n_ranks: which share of each batch is made.
    """

    blocks: ActivationSource
    size: int
    seed: int = 0
    rank: int = 0
    n_ranks: int = 1

    def __post_init__(self) -> None:
        if self.size % self.n_ranks:
            raise TrainingError(f"{self.n_ranks} processes cannot share batches of {self.size} rows evenly")

    def start(self, place: Place) -> Feed:
        """Batches from there on, without an end, made by a thread of their own. Close it."""
        return Feed(self._from(place))

    def _from(self, place: Place) -> Iterator[Batch]:
        share = self.size // self.n_ranks
        mine = slice(self.rank * share, (self.rank + 1) * share)
        epoch, index, row = place.epoch, place.block, place.row
        while True:
            served = index > 0 or row > 0  # before a stop: what is left of an epoch may be too little for a batch
            for number in range(index, self.blocks.n_chunks(epoch)):
                block = self.blocks.chunk(epoch, number)
                n = len(block.recording)
                shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(self._seed_of(epoch, number)))
                for first in range(row, n - self.size + 1, self.size):
                    whole = shuffled[first : first + self.size]
                    chosen, served = whole[mine], True
                    rows = tuple(_gather(one, chosen) for one in block.rows)
                    yield Batch(
                        rows, chosen, whole, block, Place(epoch, number, first), Place(epoch, number, first + self.size)
                    )
                row = 0
            if not served:
                raise TrainingError(
                    f"no block of the activations has the {self.size} rows of a batch: make batches smaller, or give "
                    "more activations (or more shards or recordings to a block)"
                )
            epoch, index, row = epoch + 1, 0, 0

    def _seed_of(self, epoch: int, block: int) -> int:
        return (self.seed * 1_000_003 + epoch) * 1_000_003 + block & (2**63 - 1)


def _gather(rows: Tensor, chosen: Int[Tensor, "row"]) -> Tensor:
    if rows.device.type == "cpu" and rows.dtype in (torch.float16, torch.float32):
        # numpy takes one core: torch's threads of this thread would spin on the cores that training needs
        return torch.from_numpy(np.take(rows.numpy(), chosen.numpy(), axis=0).astype(np.float32, copy=False))
    return rows.index_select(0, chosen.to(rows.device)).float()


class Feed:
    """An iterator whose items a thread makes ahead; errors come out where the item would have."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        # the number of threads is a setting of each thread, and sums may depend on it
        self._thread = threading.Thread(
            target=self._fill, args=(batches, torch.get_num_threads()), name="batches", daemon=True
        )
        self._thread.start()

    def _fill(self, batches: Iterator[Batch], threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                for batch in batches:
                    if not self._offer(batch):
                        return
        except BaseException as error:  # whatever it is, it is the trainer's to raise
            self._offer(error)

    def _offer(self, item: Any) -> bool:
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
