"""Activations streamed from a model during training, without files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper.corpora import Failure, Recording
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from sae_lens_audio.activations.manifest import header_of
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.activations.sources import (
    ActivationChunk,
    DeprecatedSourceNames,
    check_index,
    digest_of,
    selected_recordings,
)

_log = logging.getLogger(__name__)


class StreamedActivations(DeprecatedSourceNames):
    """Rows of a corpus, computed again in every epoch. A chunk is a few recordings, in random order in every epoch.

    Recordings that cannot be read are skipped, kept in ``failures`` by their index in the corpus, and logged once. Any
    thread may request chunks, but the model must not run elsewhere at the same time: both passes would share hooks and
    attached SAEs.

    Args:
        hooks, options: as for :func:`~sae_lens_audio.activations.collect_activations`; ``shard_rows`` has no effect.
        recordings_per_chunk: more recordings mix more and take more memory.
        recordings: indices of recordings; default: all.
        seed: of the order of recordings.

    Raises:
        ArgumentError: no recordings, or an argument out of range.
        HookedWhisperError: hook points as for ``collect_activations``. In :meth:`chunk`: an activation that is not
            finite or too large for the dtype.
    """

    @renamed_arguments(recordings_per_block="recordings_per_chunk")
    def __init__(
        self,
        model: HookedWhisper,
        corpus: Sequence[Recording],
        hooks: Names,
        recordings_per_chunk: int = 512,
        options: CollectOptions | None = None,
        seed: int = 0,
        recordings: Sequence[int] | Int[np.ndarray, "selected"] | None = None,
    ) -> None:
        if recordings_per_chunk < 1 or seed < 0:
            raise ArgumentError(
                f"recordings_per_chunk must be at least 1 and seed at least 0, got {recordings_per_chunk} and {seed}"
            )
        if not len(corpus):
            raise ArgumentError("the corpus has no recordings: there is nothing to read")
        self.reader = RowReader(model, hooks, CollectOptions() if options is None else options)
        self.corpus, self.seed, self.recordings_per_chunk = corpus, seed, recordings_per_chunk
        self.hooks, self.widths = self.reader.hooks, self.reader.widths
        self.ids: Sequence[str] = [recording.id for recording in corpus]
        everything = np.arange(len(corpus))
        self._selected = everything if recordings is None else selected_recordings(recordings, len(corpus))
        self.failures: dict[int, Failure] = {}
        self._lock = Lock()

    recordings_per_block = renamed_property("recordings_per_block", "recordings_per_chunk")

    def describe(self) -> dict[str, Any]:
        """Return JSON values that identify the rows. This reads the weights of the model."""
        header = header_of(self.corpus, self.reader)
        header["options"] = {name: value for name, value in header["options"].items() if name != "shard_rows"}
        return {
            "source": "stream",
            "hooks": list(self.hooks),
            "recordings": digest_of(self._selected) if len(self._selected) < len(self.corpus) else None,
            "recordings_per_block": self.recordings_per_chunk,  # the key in checkpoints of version 0.1
            "seed": self.seed,
            "header": header,
        }

    def n_chunks(self, epoch: int) -> int:
        return -(-len(self._selected) // self.recordings_per_chunk)

    def chunk(self, epoch: int, index: int) -> ActivationChunk:
        check_index(index, self.n_chunks(epoch))
        order = np.random.default_rng([self.seed, epoch]).permutation(self._selected)
        indices = order[index * self.recordings_per_chunk :][: self.recordings_per_chunk]
        recordings = [self.corpus[int(k)] for k in indices]

        def failed(failure: Failure) -> None:
            k = int(indices[failure.index])
            if k not in self.failures:
                self.failures[k] = Failure(k, failure.id, failure.path, failure.reason)
                _log.warning("recording %r is skipped: %s", failure.id, failure.reason)

        with self._lock:  # two passes at a time would share hooks
            chunks = [batch.chunk for batch in self.reader.batches(recordings, failed=failed)]
        empty = torch.empty(0, dtype=torch.int32)
        within = torch.cat([chunk.recording for chunk in chunks] or [empty])  # index in `recordings`
        dtype = self.reader.options.torch_dtype
        rows = tuple(
            torch.cat([chunk.rows[k] for chunk in chunks] or [torch.empty(0, width, dtype=dtype)])
            for k, width in enumerate(self.widths)
        )
        recording = torch.from_numpy(indices.astype(np.int32))[within.long()]
        return ActivationChunk(rows, recording, torch.cat([chunk.position for chunk in chunks] or [empty]))
