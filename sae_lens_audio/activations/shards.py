"""One shard: a safetensors file with some rows of all hook points.

Tensors: ``<hook>`` [row, d] for each hook, ``recording`` and ``position`` int32 [row] in the same order. Rows are
shuffled within the shard, so that who reads it from front to back meets frames of many recordings. Beside them stand
what the manifest of a finished store is made from, so that it need not be kept in memory or written again and again:
``windows.recording`` and ``windows.samples`` (of the windows that have rows), and float64 ``statistics.<hook>.*``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hooked_whisper._support.storage import AnyPath, local_copy
from hooked_whisper.corpora import Cursor
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.activations.reading import Batch
from sae_lens_audio.activations.sources import ActivationChunk
from sae_lens_audio.activations.statistics import Statistics, statistics_of

FORMAT = "sae_lens_audio activations"
RECORDING, POSITION = "recording", "position"


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def part_name(number: int) -> str:
    """Of the folder of a part of the corpus."""
    return f"part-{number:05d}"


class OpenShard:
    """Rows of a shard that is being filled, batch after batch, from the cursor ``start`` to the cursor ``end``."""

    def __init__(self, start: Cursor) -> None:
        self.start = self.end = start
        self.rows = 0
        self._blocks: list[ActivationChunk] = []
        self._windows: list[tuple[int, int]] = []

    def add(self, batch: Batch) -> None:
        self._blocks.append(batch.block)
        sizes = zip(batch.windows, batch.sizes, strict=True)
        self._windows += [(window.recording, window.length) for window, size in sizes if size]
        self.rows += len(batch.block)
        self.end = batch.windows[-1].after

    def packed(self, hooks: Sequence[str], seed: Sequence[int]) -> bytes:
        """The shard's file; it is empty afterwards."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(self.rows))
        windows = torch.tensor(self._windows, dtype=torch.int32)
        tensors = {
            RECORDING: torch.cat([block.recording for block in self._blocks])[order],
            POSITION: torch.cat([block.position for block in self._blocks])[order],
            "windows.recording": windows[:, 0].contiguous(),
            "windows.samples": windows[:, 1].contiguous(),
        }
        for k, hook in enumerate(hooks):
            rows = torch.cat([block.rows[k] for block in self._blocks])[order]
            found = statistics_of(rows)
            tensors |= {
                hook: rows,
                f"statistics.{hook}.mean": found.mean,
                f"statistics.{hook}.m2": found.m2,
                f"statistics.{hook}.norms": torch.tensor([found.norm, found.square_norm], dtype=torch.float64),
            }
        self._blocks.clear()
        return save(tensors, {"format": FORMAT})  # one entry: the order of several would be random


class Shard:
    """A finished shard. Tensors are views of the memory-mapped file: nothing is read before it is looked at.

    Raises:
        CheckpointError: a file that is missing, damaged, or does not hold what the manifest says.
    """

    def __init__(self, path: AnyPath, rows: int, widths: dict[str, int], dtype: torch.dtype) -> None:
        self.path, self.rows, self.widths, self.dtype = path, rows, widths, dtype

    def tensor(self, name: str) -> Tensor:
        return self._tensors([name])[name]

    def chunk(self, hooks: Sequence[str]) -> ActivationChunk:
        found = self._tensors([*hooks, RECORDING, POSITION])
        return ActivationChunk(tuple(found[hook] for hook in hooks), found[RECORDING], found[POSITION])

    def statistics(self, hook: str) -> Statistics:
        parts = [f"statistics.{hook}.{what}" for what in ("mean", "m2", "norms")]
        mean, m2, norms = self._tensors(parts).values()
        return Statistics(self.rows, mean, m2, float(norms[0]), float(norms[1]))

    def windows(self) -> tuple[Int[Tensor, "window"], Int[Tensor, "window"]]:
        """Recording and samples of sound of every window that has rows here."""
        recording, samples = self._tensors(["windows.recording", "windows.samples"]).values()
        return recording, samples

    def _tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        try:
            with safe_open(local_copy(self.path), "pt") as file:
                found = {name: file.get_tensor(name) for name in names}
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} is missing: {REMEDY}") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}): {REMEDY}") from error
        for name, tensor in found.items():
            if name in self.widths:
                wanted, dtype = [self.rows, self.widths[name]], self.dtype
            elif name in (RECORDING, POSITION):
                wanted, dtype = [self.rows], torch.int32
            else:
                continue
            if list(tensor.shape) != wanted or tensor.dtype != dtype:
                raise CheckpointError(
                    f"{self.path}: {name} is {list(tensor.shape)} {tensor.dtype}, the manifest says {wanted} {dtype}: "
                    f"{REMEDY}"
                )
        return found


REMEDY = "collect into this folder again with the same model, corpus and options, which makes damaged shards anew"
