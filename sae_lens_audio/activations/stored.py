"""ActivationSource from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper.errors import HookedWhisperError
from sae_lens_audio.activations.sources import ActivationChunk, check_index, chosen_recordings, digest_of
from sae_lens_audio.activations.store import ActivationStore


class StoredActivations:
    """Rows of a store. A block is some shards, which are drawn anew in every epoch, in memory.

    Args:
        hooks: points of the store, in the order in which a block's rows are wanted.
        recordings: places of those that are wanted, such as one side of ``store.split_by_speaker()``; default: all.
        shards_together: shards of a block. More mix frames of more recordings and take more memory.
        seed: of the order of shards.

    Raises:
        UnknownHookError: a point that was not collected.
        HookedWhisperError: no recordings or ones that have no rows, or no shards together.
    """

    def __init__(
        self,
        store: ActivationStore,
        hooks: str | Sequence[str],
        recordings: Sequence[int] | Int[np.ndarray, "chosen"] | None = None,
        shards_together: int = 8,
        seed: int = 0,
    ) -> None:
        if shards_together < 1 or seed < 0:
            raise HookedWhisperError(f"shards_together is at least 1 and seed 0, got {shards_together} and {seed}")
        self.store, self.seed, self.shards_together = store, seed, shards_together
        self.hooks = store.hook_names(hooks)
        self.widths = tuple(store.width(hook) for hook in self.hooks)
        self.ids = store.ids
        self._chosen: Int[np.ndarray, "chosen"] | None = None
        if recordings is not None:
            self._chosen = chosen_recordings(recordings, len(self.ids))
            if not sum(store.recordings[k].rows for k in self._chosen):
                raise HookedWhisperError(f"the recordings chosen have no rows in {store.folder}: choose others")
        self._groups = -(-store.n_shards // shards_together)

    @property
    def rows(self) -> int:
        """In an epoch."""
        chosen = range(len(self.ids)) if self._chosen is None else self._chosen
        return sum(self.store.recordings[k].rows for k in chosen)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "store",
            "hooks": list(self.hooks),
            "store": self.store.digest,
            "recordings": None if self._chosen is None else digest_of(self._chosen),
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
        block = self.store.shard(number).chunk(self.hooks)
        if self._chosen is None:
            return block
        return block.taken(np.flatnonzero(np.isin(block.recording.numpy(), self._chosen)))
