"""The pass over a corpus in chunks, by one process or by several that share the chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace

import torch
from tqdm import tqdm

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper.activations import ActivationBatch, ActivationStream
from hooked_whisper.corpora import Failure, Recording
from hooked_whisper.corpora.windows import Part
from hooked_whisper.features.scan.priority import priorities
from hooked_whisper.features.scan.reader import FeatureReader
from hooked_whisper.features.scan.records import ScanOptions
from hooked_whisper.features.scan.states import Progress, StateFiles, new_name
from hooked_whisper.hooked import HookedWhisper


class ChunkScan:
    """One process's part of a scan.

    The process writes its counts to a state file between chunks. Files of earlier runs are not extended but merged at
    the end, so that each file has its recordings in the order of the corpus.
    """

    def __init__(
        self,
        model: HookedWhisper,
        corpus: Sequence[Recording],
        new_readers: Callable[[], list[FeatureReader]],
        files: StateFiles,
        options: ScanOptions,
        ranks: TorchRanks | None,
    ) -> None:
        self.model, self.corpus, self.new_readers, self.files = model, corpus, new_readers, files
        self.options, self.ranks = options, ranks
        self.rank, self.n_ranks = (0, 1) if ranks is None else (ranks.rank, ranks.n)
        self.readers, self.progress = new_readers(), Progress()
        hooks = sorted({reader.hook for reader in self.readers})
        self.stream = ActivationStream(model, hooks, batch=options.batch, window=options.window, beyond=options.beyond)
        self._name = new_name()

    def run(self, progress: bool, checkpoint_s: float | int) -> bool:
        """Scan the chunks that no state file covers, and return whether this is rank 0.

        On rank 0, ``readers`` and ``progress`` then cover the whole corpus.
        """
        states = self.files.states()
        done = {chunk for state in states.values() for chunk in state.chunks}
        self._wait()  # no process removes a file before all have read the folder
        self._join(sorted(states)[self.rank :: self.n_ranks], states)
        todo = [chunk for chunk in range(self.n_chunks) if chunk not in done][self.rank :: self.n_ranks]
        self._scan(todo, progress and self.rank == 0, checkpoint_s)
        if self.n_ranks > 1 and self.progress.chunks:
            self.files.write(self._name, self.readers, self.progress)
        self._wait()
        if self.rank:
            return False
        for name, state in self.files.states().items():
            if name != self._name:
                self._merge(name, state)
        return True

    def finish(self) -> None:
        """Delete the state files, once the results are written, and wait for the other processes."""
        if self.rank == 0:
            self.files.delete_all()
        self._wait()

    @property
    def n_chunks(self) -> int:
        return -(-len(self.corpus) // self.options.chunk)

    def _wait(self) -> None:
        if self.ranks is not None:
            self.ranks.wait()

    def _join(self, names: Sequence[str], states: dict[str, Progress]) -> None:
        """Merge several leftover files into one, so that a run that is killed often does not fill the disk."""
        if len(names) < 2:
            return
        readers, progress = self.new_readers(), Progress(replaces=list(names))
        self.files.read(names[0], readers)
        progress.add(states[names[0]])
        for name in names[1:]:
            self._merge(name, states[name], readers, progress)
        self.files.write(new_name(), readers, progress)
        self.files.delete(names)

    def _merge(
        self, name: str, state: Progress, readers: list[FeatureReader] | None = None, progress: Progress | None = None
    ) -> None:
        """Add the counts of a state file."""
        others = self.new_readers()
        self.files.read(name, others)
        for reader, other in zip(self.readers if readers is None else readers, others, strict=True):
            reader.merge(other)
        (self.progress if progress is None else progress).add(state)

    # The pass ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _scan(self, chunks: Sequence[int], progress: bool, checkpoint_s: float | int) -> None:
        size = self.options.chunk
        starts = [chunk * size for chunk in chunks]
        indices = [index for start in starts for index in range(start, min(start + size, len(self.corpus)))]
        if not indices:
            return
        part, waiting = Part(self.corpus, indices), list(chunks)
        failures: list[Failure] = []  # may be of later chunks: recordings are decoded ahead

        def finish(before: int | None) -> None:
            """Record all chunks before this one as done (``None``: all)."""
            while waiting and waiting[0] != before:
                chunk = waiting.pop(0)
                self.progress.failures += [asdict(failure) for failure in failures if failure.index // size == chunk]
                self.progress.chunks.append(chunk)

        def failed(failure: Failure) -> None:
            failures.append(replace(failure, index=indices[failure.index]))

        # no batch has recordings of two chunks, so that every process computes the same numbers for a chunk
        batches = self.stream.batches(part, failed=failed, group=size)
        saved = time.monotonic()
        bar = tqdm(total=len(indices), unit="file", desc="scan", disable=not progress)
        with bar, closing(batches), ThreadPoolExecutor(1, thread_name_prefix="counting") as thread:
            counting: Future[None] | None = None  # of the previous batch, while the model runs on the next one
            for batch in batches:
                if counting is not None:
                    counting.result()
                chunk = indices[batch.windows[0].recording] // size
                if waiting[0] != chunk:
                    finish(chunk)
                    if time.monotonic() - saved > checkpoint_s:
                        self.files.write(self._name, self.readers, self.progress)
                        saved = time.monotonic()
                counting = thread.submit(self._add, batch, indices)
                last = batch.windows[-1]
                bar.update(last.recording + last.last - bar.n)
            if counting is not None:
                counting.result()
            finish(None)
            bar.update(len(indices) - bar.n)

    @torch.no_grad()  # which holds for one thread
    def _add(self, batch: ActivationBatch, indices: Sequence[int]) -> None:
        """Count the rows of a batch."""
        for window, rows in batch.by_window():
            recording = indices[window.recording]
            name = self.corpus[recording].id
            first = window.number * self.model.time.n_ctx
            n_positions = rows.stop - rows.start
            priority = priorities(name, range(first, first + n_positions), self.options.seed).to(self.model.device)
            for reader in self.readers:
                reader.add(batch.rows[reader.hook][rows], recording, name, first, priority)
            self.progress.samples += window.length
            self.progress.recordings += window.last
