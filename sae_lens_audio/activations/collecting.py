"""Write the activations of a corpus to the disk, once for any number of training runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from hooked_whisper._support.locks import locked
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, Place, as_path, write_atomic
from hooked_whisper.corpora import Cursor, Failure, Recording
from hooked_whisper.corpora.windows import Part
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from sae_lens_audio.activations.deviation import measure_deviation
from sae_lens_audio.activations.manifest import (
    MANIFEST,
    Manifest,
    RecordingEntry,
    ShardEntry,
    check_same,
    damage,
    header_of,
    read_manifest,
    versions,
)
from sae_lens_audio.activations.options import CollectOptions
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.activations.shards import RECORDING, OpenShard, part_name, shard_name
from sae_lens_audio.activations.store import ActivationStore, open_store, shard_of

_log = logging.getLogger(__name__)


def collect_activations(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hooks: Names,
    folder: Place,
    options: CollectOptions | None = None,
    *,
    progress: bool = True,
    ranks: TorchRanks | None = None,
) -> ActivationStore:
    """Write the activations of hook points on a corpus to a folder, and open it as a store.

    Args:
        corpus: see :mod:`hooked_whisper.corpora`. Recordings that cannot be read are listed in the manifest.
        hooks: points with a vector for each encoder position, or decoder points with one for each token of the text,
            see :class:`~sae_lens_audio.activations.reading.RowReader`. The model runs once for all of them, up to the
            last one.
        folder: path or URL for ``shard-00000.safetensors``, ... and ``manifest.json``. A corpus of more than
            ``options.part`` recordings is collected in parts, each with a subfolder and a manifest.
        ranks: the other processes, which share the parts, see
            :func:`~hooked_whisper._support.ranks.torchrun_ranks` (use the CPU's group, since they only wait for each
            other). All must see the same folder.

    Recordings longer than the model's window are cut into windows; positions count from the start of the recording.
    Files are written atomically. Calling it again resumes after a kill and rewrites missing or damaged shards, also
    with another number of processes. The bytes depend neither on the number of processes nor on interruptions (on the
    same kind of machine with the same number of threads). For a finished store only the digests are checked.

    Raises:
        HookedWhisperError: there is nothing to collect, the folder has another store or is in use by another process,
            an activation is not finite or too large for the dtype, or a file cannot be written. Files written before
            remain valid.
        CheckpointError: the manifest cannot be read, or the audio has changed since a shard was written.
    """
    options = CollectOptions() if options is None else options
    folder = as_path(folder)
    reader = RowReader(model, hooks, options)
    if not len(corpus):
        raise HookedWhisperError("the corpus has no recordings: there is nothing to collect")
    header = header_of(corpus, reader)
    rank, n_ranks = (0, 1) if ranks is None else (ranks.rank, ranks.n)
    n_parts = -(-len(corpus) // options.part)
    mine = range(rank, n_parts, n_ranks)
    total = sum(min(len(corpus), (k + 1) * options.part) - k * options.part for k in mine)
    with tqdm(total=total, unit="file", desc="collect", disable=not progress or bool(rank)) as bar:
        if n_parts == 1 and not rank:
            _collect_part(reader, corpus, folder, header, (), bar)
        if n_parts > 1:
            _check_joined(folder, header)
            for k in mine:
                span = (k * options.part, min(len(corpus), (k + 1) * options.part))
                _collect_part(reader, corpus, folder / part_name(k), header | {"part": list(span)}, (k,), bar)
    if ranks is not None:
        ranks.wait()
    if n_parts > 1 and not rank:
        join_parts(reader, corpus, folder, header, n_parts)
    if ranks is not None:
        ranks.wait()
    return open_store(folder, verify=False)  # every shard was just written or checked


def _collect_part(
    reader: RowReader,
    corpus: Sequence[Recording],
    folder: AnyPath,
    header: dict[str, Any],
    number: tuple[int, ...],
    bar: tqdm[Any],
) -> None:
    """Collect the whole corpus, or the part that the header names."""
    with _alone(folder):
        manifest = read_manifest(folder) if (folder / MANIFEST).exists() else Manifest(header, versions())
        check_same(header, manifest, folder)
        _check_no_others(folder, manifest)
        run = _Run(reader, Part(corpus, range(manifest.span[1])), folder, manifest, number)
        run.repair()
        if manifest.complete:
            bar.update(manifest.span[1] - manifest.span[0])
        else:
            run.resume(bar)


def _check_joined(folder: AnyPath, header: dict[str, Any]) -> None:
    if (folder / MANIFEST).exists():
        check_same(header, read_manifest(folder), folder)


def join_parts(
    reader: RowReader, corpus: Sequence[Recording], folder: AnyPath, header: dict[str, Any], n_parts: int
) -> None:
    """Write one manifest for all parts, which are complete."""
    whole = Manifest(header, versions(), complete=True)
    for number in range(n_parts):
        name = part_name(number)
        part = read_manifest(folder / name)
        whole.shards += [replace(shard, file=f"{name}/{shard.file}") for shard in part.shards]
        whole.failures += part.failures
        whole.recordings += part.recordings
    if not whole.shards:
        raise _nothing(whole.failures, len(corpus))
    if reader.options.window == "sound":
        before = read_manifest(folder).deviation if (folder / MANIFEST).exists() else None
        whole.deviation = before or measure_deviation(reader, corpus)
    put(folder / MANIFEST, whole.encoded())


def _nothing(failures: Sequence[dict[str, Any]], n: int) -> HookedWhisperError:
    first = next(iter(failures), {"reason": "the margin leaves no positions"})
    return HookedWhisperError(f"none of {n} recordings has rows; the first failed: {first['reason']}")


class _Run:
    """Collects one part: from the start in its manifest to the end of ``corpus``."""

    def __init__(
        self,
        reader: RowReader,
        corpus: Sequence[Recording],
        folder: AnyPath,
        manifest: Manifest,
        number: tuple[int, ...] = (),
    ) -> None:
        self.reader, self.corpus, self.folder, self.manifest = reader, corpus, folder, manifest
        self.number = number  # of the part; empty if there is only one
        self.failures = {failure["index"]: failure for failure in manifest.failures}

    def resume(self, bar: tqdm[Any]) -> None:
        """Collect from the last shard to the end. A shard is written while the next one is computed."""
        start, (first, end) = self.manifest.cursor, self.manifest.span
        before = bar.n
        bar.update(start[0] - first)
        with ExitStack() as stack:
            parts = stack.enter_context(closing(self._parts(start, bar)))
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="shards"))
            writing: Future[None] | None = None
            for part in parts:
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._append, part)
            if writing is not None:
                writing.result()
        bar.update(before + end - first - bar.n)
        self._finish()

    def repair(self) -> None:
        """Rewrite shards whose files are missing or damaged."""
        for number, entry in enumerate(self.manifest.shards):
            if not (problem := damage(self.folder, entry)):
                continue
            _log.warning("%s; rewriting it", problem.split(":", 1)[0])
            with closing(self._parts(entry.start)) as parts:
                part = next(parts, None)
            if part is None or (part.rows, part.end) != (entry.rows, entry.end):
                raise CheckpointError(
                    f"{self.folder / entry.file} cannot be rewritten: the recordings have other lengths than when "
                    "it was written; collect into another folder"
                )
            again = self._write(part, number)
            if again != entry:
                _log.warning("%s has other bytes than before: the machine or the audio has changed", entry.file)
                self.manifest.shards[number] = again
                self._save()

    def _parts(self, start: Cursor, bar: tqdm | None = None) -> Generator[OpenShard, None, None]:
        """Yield filled shards. Shards end with a batch, so that resuming at the end of one gives the same batches."""
        part, base = OpenShard(start), 0 if bar is None else bar.n - start[0]
        with closing(self.reader.batches(self.corpus, start, failed=self._failed)) as batches:
            for batch in batches:
                part.add(batch)
                if bar is not None:
                    bar.update(base + part.end[0] - bar.n)
                if part.rows >= self.reader.options.shard_rows:
                    yield part
                    part = OpenShard(part.end)
        if part.rows:
            yield part

    def _failed(self, failure: Failure) -> None:
        self.failures[failure.index] = asdict(failure)

    def _append(self, part: OpenShard) -> None:
        self.manifest.shards.append(self._write(part, len(self.manifest.shards)))
        self._save()

    def _write(self, part: OpenShard, number: int) -> ShardEntry:
        rows = part.rows
        data = part.packed(self.reader.hooks, [self.reader.options.seed, *self.number, number])
        entry = ShardEntry(shard_name(number), rows, len(data), hashlib.sha256(data).hexdigest(), part.start, part.end)
        put(self.folder / entry.file, data)
        return entry

    def _save(self) -> None:
        """Write the manifest, with the failures before its cursor; later ones will occur again."""
        last = self.manifest.span[1] if self.manifest.complete else self.manifest.cursor[0]
        self.manifest.failures = [failure for index, failure in sorted(self.failures.copy().items()) if index < last]
        put(self.folder / MANIFEST, self.manifest.encoded())

    def _finish(self) -> None:
        manifest, (first, end) = self.manifest, self.manifest.span
        if not manifest.shards and not self.number:
            raise _nothing(list(self.failures.values()), len(self.corpus))
        rows = np.zeros(end, np.int64)
        samples = np.zeros(end, np.int64)
        for number in range(len(manifest.shards)):
            shard = shard_of(self.folder, manifest, number)
            rows += np.bincount(shard.tensor(RECORDING).numpy(), minlength=len(rows))
            indices, window_samples = (column.numpy() for column in shard.windows())
            np.add.at(samples, indices, window_samples)
        rate = self.reader.model.time.sample_rate
        for k in range(first, end):
            recording, seconds = self.corpus[k], round(float(samples[k]) / rate, 4)
            manifest.recordings.append(RecordingEntry(recording.id, recording.speaker, int(rows[k]), seconds))
        if self.reader.options.window == "sound" and not self.number:
            manifest.deviation = measure_deviation(self.reader, self.corpus)
        manifest.complete = True
        self._save()


def put(path: AnyPath, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        HookedWhisperError: the file cannot be written.
    """
    try:
        write_atomic(path, data)
    except OSError as error:
        raise HookedWhisperError(
            f"{path} ({len(data) / 2**20:.0f} MiB) cannot be written: {error.strerror or error}. Free space or "
            "choose another folder; the same call resumes after the files that are complete"
        ) from error


def _check_no_others(folder: AnyPath, manifest: Manifest) -> None:
    """
    Raises:
        HookedWhisperError: there are shards that the manifest does not list (one may remain from a kill).
    """
    ours = {shard_name(number) for number in range(len(manifest.shards) + 1)}
    others = sorted(path.name for path in folder.glob("shard-*.safetensors") if path.name not in ours)
    if others:
        raise HookedWhisperError(
            f"{folder} holds shards of another store ({others[0]}, ...): choose another folder, or delete that one"
        )


@contextmanager
def _alone(folder: AnyPath) -> Iterator[None]:
    """Lock the folder for this process, and delete partial files of killed ones.

    Raises:
        HookedWhisperError: another process is collecting into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "collecting into"):
        for pattern in (".shard-*.safetensors.*", f".{MANIFEST}.*"):
            for partial in folder.glob(pattern):
                partial.unlink(missing_ok=True)
        yield
