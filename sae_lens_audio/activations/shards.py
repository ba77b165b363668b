"""One shard: a safetensors file with rows of all hook points.

Tensors: ``<hook>`` [row, d] for each hook point, ``recording`` and ``position`` int32 [row] in the same order. Rows are
shuffled within the shard, so that consecutive rows come from many recordings. Further tensors are the basis of the
final manifest: ``windows.recording`` and ``windows.samples`` (of the windows that have rows), and float64
``statistics.<hook>.*``.
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
from sae_lens_audio.activations.reading import RowBatch
from sae_lens_audio.activations.sources import ActivationChunk
from sae_lens_audio.activations.statistics import Statistics, statistics_of

FORMAT = "sae_lens_audio activations"
RECORDING, POSITION = "recording", "position"


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def part_name(number: int) -> str:
    """Return the folder name of a part of the corpus."""
    return f"part-{number:05d}"


class OpenShard:
    """A shard being filled, batch by batch, from the cursor ``start`` to the cursor ``end``."""

    def __init__(self, start: Cursor) -> None:
        self.start = self.end = start
        self.rows = 0
        self._chunks: list[ActivationChunk] = []
        self._windows: list[tuple[int, int]] = []

    def add(self, batch: RowBatch) -> None:
        self._chunks.append(batch.chunk)
        sizes = zip(batch.windows, batch.sizes, strict=True)
        self._windows += [(window.recording, window.length) for window, size in sizes if size]
        self.rows += len(batch.chunk)
        self.end = batch.windows[-1].after

    def packed(self, hooks: Sequence[str], seed: Sequence[int]) -> bytes:
        """Return the content of the shard's file and empty the shard."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(self.rows))
        windows = torch.tensor(self._windows, dtype=torch.int32)
        tensors = {
            RECORDING: torch.cat([chunk.recording for chunk in self._chunks])[order],
            POSITION: torch.cat([chunk.position for chunk in self._chunks])[order],
            "windows.recording": windows[:, 0].contiguous(),
            "windows.samples": windows[:, 1].contiguous(),
        }
        for k, hook in enumerate(hooks):
            rows = torch.cat([chunk.rows[k] for chunk in self._chunks])[order]
            statistics = statistics_of(rows)
            tensors |= {
                hook: rows,
                f"statistics.{hook}.mean": statistics.mean,
                f"statistics.{hook}.m2": statistics.m2,
                f"statistics.{hook}.norms": torch.tensor(
                    [statistics.norm, statistics.square_norm], dtype=torch.float64
                ),
            }
        self._chunks.clear()
        return save(tensors, {"format": FORMAT})  # one entry only, since their order is random


class Shard:
    """A finished shard. Tensors are views of the memory-mapped file, read on first access.

    Raises:
        CheckpointError: the file is missing, damaged, or does not agree with the manifest.
    """

    def __init__(self, path: AnyPath, rows: int, widths: dict[str, int], dtype: torch.dtype) -> None:
        self.path, self.rows, self.widths, self.dtype = path, rows, widths, dtype

    def tensor(self, name: str) -> Tensor:
        return self._tensors([name])[name]

    def chunk(self, hooks: Sequence[str]) -> ActivationChunk:
        tensors = self._tensors([*hooks, RECORDING, POSITION])
        return ActivationChunk(tuple(tensors[hook] for hook in hooks), tensors[RECORDING], tensors[POSITION])

    def statistics(self, hook: str) -> Statistics:
        parts = [f"statistics.{hook}.{name}" for name in ("mean", "m2", "norms")]
        mean, m2, norms = self._tensors(parts).values()
        return Statistics(self.rows, mean, m2, float(norms[0]), float(norms[1]))

    def windows(self) -> tuple[Int[Tensor, "window"], Int[Tensor, "window"]]:
        """Return the recording, and the number of samples, of every window that has rows in this shard."""
        recording, samples = self._tensors(["windows.recording", "windows.samples"]).values()
        return recording, samples

    def _tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        try:
            with safe_open(local_copy(self.path), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in names}
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} is missing: {REMEDY}") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}): {REMEDY}") from error
        for name, tensor in tensors.items():
            if name in self.widths:
                shape, dtype = [self.rows, self.widths[name]], self.dtype
            elif name in (RECORDING, POSITION):
                shape, dtype = [self.rows], torch.int32
            else:
                continue
            if list(tensor.shape) != shape or tensor.dtype != dtype:
                raise CheckpointError(
                    f"{self.path}: {name} is {list(tensor.shape)} {tensor.dtype}, the manifest says {shape} {dtype}: "
                    f"{REMEDY}"
                )
        return tensors


REMEDY = "collect into this folder again with the same model, corpus and options, which rewrites damaged shards"
