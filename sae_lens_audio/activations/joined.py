"""Activations from several sources as one, such as stores of corpora that were collected one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.activations.sources import ActivationChunk, ActivationSource, DeprecatedSourceNames, check_index


class JoinedActivations(DeprecatedSourceNames):
    """Rows of several sources. Every chunk has rows of each source, in proportion to their sizes.

    The source with the most chunks sets the number of chunks. Rows of a chunk of another source go to several of them,
    at random. Memory holds a chunk of each source.

    Args:
        sources: with the same hook points.
        seed: of the splits.

    Raises:
        ArgumentError: no source, or sources with different hook points.
    """

    def __init__(self, sources: Sequence[ActivationSource], seed: int = 0) -> None:
        if not sources or any((s.hooks, s.widths) != (sources[0].hooks, sources[0].widths) for s in sources):
            hooks = "; ".join(", ".join(source.hooks) for source in sources) or "none"
            raise ArgumentError(f"sources to join need the same hook points, got {hooks}")
        self.sources, self.seed = tuple(sources), seed
        self.hooks, self.widths = sources[0].hooks, sources[0].widths
        self.ids: Sequence[str] = [name for source in sources for name in source.ids]
        self._offsets = np.cumsum([0, *(len(source.ids) for source in sources)])

    def describe(self) -> dict[str, Any]:
        sources = [source.describe() for source in self.sources]
        return {"source": "joined", "hooks": list(self.hooks), "sources": sources, "seed": self.seed}

    def n_chunks(self, epoch: int) -> int:
        return max(source.n_chunks(epoch) for source in self.sources)

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        n = self.n_chunks(epoch)
        check_index(index, n)
        parts = [self._part(number, epoch, index, n) for number in range(len(self.sources))]
        return ActivationChunk(
            tuple(torch.cat([part.rows[k] for part in parts]) for k in range(len(self.hooks))),
            torch.cat([part.recording for part in parts]),
            torch.cat([part.position for part in parts]),
        )

    def _part(self, number: int, epoch: int, index: int, n: int) -> ActivationChunk:
        """Return the rows of one source in a chunk, with the recordings numbered over all sources."""
        source, offset = self.sources[number], int(self._offsets[number])
        n_own = source.n_chunks(epoch)
        first = index * n_own // n
        chunk = source.chunk(epoch, first)
        sharing = [k for k in range(n) if k * n_own // n == first]  # the chunks that share this one
        if len(sharing) > 1:
            order = np.random.default_rng([self.seed, epoch, number, first]).permutation(len(chunk))
            chunk = chunk.select(np.array_split(order, len(sharing))[sharing.index(index)])
        return ActivationChunk(chunk.rows, chunk.recording + offset, chunk.position)
