"""Activations from a store, for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.activations.sources import (
    ActivationChunk,
    DeprecatedSourceNames,
    check_index,
    digest_of,
    selected_recordings,
)
from sae_lens_audio.activations.store import ActivationStore


class StoredActivations(DeprecatedSourceNames):
    """Rows of a store. A chunk is a few shards in memory, in another random order in every epoch.

    Args:
        hooks: hook points of the store, in the order of a chunk's rows.
        recordings: indices of recordings, such as one side of ``store.split_by_speaker()``; default: all.
        shards_together: shards per chunk. More shards mix more recordings and take more memory.
        seed: of the order of shards.

    Raises:
        UnknownHookError: the store does not have a hook point.
        ArgumentError: no recordings, recordings without rows, or ``shards_together`` below 1.
    """

    def __init__(
        self,
        store: ActivationStore,
        hooks: str | Sequence[str],
        recordings: Sequence[int] | Int[np.ndarray, "selected"] | None = None,
        shards_together: int = 8,
        seed: int = 0,
    ) -> None:
        if shards_together < 1 or seed < 0:
            raise ArgumentError(
                f"shards_together must be at least 1 and seed at least 0, got {shards_together} and {seed}"
            )
        self.store, self.seed, self.shards_together = store, seed, shards_together
        self.hooks = store.hook_names(hooks)
        self.widths = tuple(store.width(hook) for hook in self.hooks)
        self.ids = store.ids
        self._selected: Int[np.ndarray, "selected"] | None = None
        if recordings is not None:
            self._selected = selected_recordings(recordings, len(self.ids))
            if not sum(store.recordings[k].rows for k in self._selected):
                raise ArgumentError(f"the selected recordings have no rows in {store.folder}: choose others")
        self._groups = -(-store.n_shards // shards_together)

    @property
    def rows(self) -> int:
        """Rows per epoch."""
        selected = range(len(self.ids)) if self._selected is None else self._selected
        return sum(self.store.recordings[k].rows for k in selected)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "store",
            "hooks": list(self.hooks),
            "store": self.store.digest,
            "recordings": None if self._selected is None else digest_of(self._selected),
            "shards_together": self.shards_together,
            "seed": self.seed,
        }

    def n_chunks(self, epoch: int) -> int:
        return self._groups

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        check_index(index, self._groups)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.store.n_shards)
        numbers = np.array_split(order, self._groups)[index]
        parts = [self._part(int(number)) for number in numbers]
        return ActivationChunk(
            tuple(torch.cat([part.rows[k] for part in parts]) for k in range(len(self.hooks))),
            torch.cat([part.recording for part in parts]),
            torch.cat([part.position for part in parts]),
        )

    def _part(self, number: int) -> ActivationChunk:
        chunk = self.store.shard(number).chunk(self.hooks)
        if self._selected is None:
            return chunk
        return chunk.select(np.flatnonzero(np.isin(chunk.recording.numpy(), self._selected)))
