"""ActivationSource from a model that runs when they are asked for: nothing on the disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper.corpora import Failure, Recording
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from sae_lens_audio.activations.manifest import header_of
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.activations.sources import ActivationChunk, check_index, chosen_recordings, digest_of

_log = logging.getLogger(__name__)


class StreamedActivations:
    """Rows of a corpus, harvested again in every epoch. A block is some recordings, drawn anew in every epoch.

    What cannot be read is passed over, kept in ``failures`` by its place in the corpus, and logged once. ActivationSource may be
    asked for by any thread, but while one is made nobody else may run the model: hooks and splices would be seen in it.

    Args:
        hooks, options: as for :func:`~sae_lens_audio.activations.collect_activations`; ``shard_rows`` does not matter.
        recordings_per_block: more mix frames of more recordings and take more memory.
        recordings: places of those that are wanted; default: all.
        seed: of the order of recordings.

    Raises:
        HookedWhisperError: no recordings; points as for ``collect_activations``. In :meth:`block`: activations that are not finite
            or too large for the dtype.
    """

    def __init__(
        self,
        model: HookedWhisper,
        corpus: Sequence[Recording],
        hooks: Names,
        recordings_per_block: int = 512,
        options: CollectOptions | None = None,
        seed: int = 0,
        recordings: Sequence[int] | Int[np.ndarray, "chosen"] | None = None,
    ) -> None:
        if recordings_per_block < 1 or seed < 0:
            raise HookedWhisperError(
                f"recordings_per_block is at least 1 and seed 0, got {recordings_per_block} and {seed}"
            )
        if not len(corpus):
            raise HookedWhisperError("the corpus has no recordings: there is nothing to read")
        self.reader = RowReader(model, hooks, CollectOptions() if options is None else options)
        self.corpus, self.seed, self.recordings_per_block = corpus, seed, recordings_per_block
        self.hooks, self.widths = self.reader.hooks, self.reader.widths
        self.ids: Sequence[str] = [one.id for one in corpus]
        everything = np.arange(len(corpus))
        self._chosen = everything if recordings is None else chosen_recordings(recordings, len(corpus))
        self.failures: dict[int, Failure] = {}
        self._lock = Lock()

    def describe(self) -> dict[str, Any]:
        """What settles the rows. The weights of the model are looked at when this is called."""
        header = header_of(self.corpus, self.reader)
        header["options"] = {name: value for name, value in header["options"].items() if name != "shard_rows"}
        return {
            "source": "stream",
            "hooks": list(self.hooks),
            "recordings": digest_of(self._chosen) if len(self._chosen) < len(self.corpus) else None,
            "recordings_per_block": self.recordings_per_block,
            "seed": self.seed,
            "header": header,
        }

    def n_chunks(self, epoch: int) -> int:
        return -(-len(self._chosen) // self.recordings_per_block)

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        check_index(index, self.n_chunks(epoch))
        order = np.random.default_rng([self.seed, epoch]).permutation(self._chosen)
        places = order[index * self.recordings_per_block :][: self.recordings_per_block]
        some = [self.corpus[int(place)] for place in places]

        def failed(failure: Failure) -> None:
            place = int(places[failure.index])
            if place not in self.failures:
                self.failures[place] = Failure(place, failure.id, failure.path, failure.reason)
                _log.warning("recording %r is passed over: %s", failure.id, failure.reason)

        with self._lock:  # two passes at a time would hear each other's hooks
            blocks = [batch.block for batch in self.reader.batches(some, failed=failed)]
        empty = torch.empty(0, dtype=torch.int32)
        of_block = torch.cat([block.recording for block in blocks] or [empty])
        dtype = self.reader.options.torch_dtype
        rows = tuple(
            torch.cat([block.rows[k] for block in blocks] or [torch.empty(0, width, dtype=dtype)])
            for k, width in enumerate(self.widths)
        )
        recording = torch.from_numpy(places.astype(np.int32))[of_block.long()]
        return ActivationChunk(rows, recording, torch.cat([block.position for block in blocks] or [empty]))
