"""Activations of a corpus to the disk, once, for any number of trainings."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, Place, as_path, is_local, write_atomic
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
    """Write the activations of some hook points on a corpus to a folder, and open it.

    Args:
        corpus: see :mod:`hooked_whisper.corpora`. What cannot be read is passed over and listed in the manifest.
        hooks: points with a vector for each encoder position, or decoder points with one for each token of the text,
            see :class:`~sae_lens_audio.activations.reading.RowReader`. The model runs once for all of them, and no
            further than the last.
        folder: path or URL; gets ``shard-00000.safetensors``, ... and ``manifest.json``. A corpus of more than
            ``options.part`` recordings is harvested in parts, each with a folder and a manifest of its own below.
        ranks: the other processes, see :func:`~hooked_whisper._support.ranks.torchrun_ranks` (the CPU's group: they
            only wait for each other), which share the parts. All must see the same folder.

    Recordings longer than the model's window are cut into windows; positions go on counting. Files are written whole
    or not at all. The same call goes on where an earlier one was killed and makes missing or damaged shards anew, also
    with more or fewer processes; the folder has the same bytes whoever wrote it and however often they were killed
    (same machines and number of threads). Of a finished store only the digests are checked.

    Raises:
        HookedWhisperError: nothing to collect, a folder with another store or one that another process is writing,
            activations that are not finite or too large for the dtype, a file that cannot be written. What was
            written before stays and counts.
        CheckpointError: a manifest that cannot be read, or audio that is not what it was when a shard was written.
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
            _harvest_one(reader, corpus, folder, header, (), bar)
        if n_parts > 1:
            _check_joined(folder, header)
            for k in mine:
                span = (k * options.part, min(len(corpus), (k + 1) * options.part))
                _harvest_one(reader, corpus, folder / part_name(k), header | {"part": list(span)}, (k,), bar)
    if ranks is not None:
        ranks.wait()
    if n_parts > 1 and not rank:
        join_parts(reader, corpus, folder, header, n_parts)
    if ranks is not None:
        ranks.wait()
    return open_store(folder, verify=False)  # every shard was just written or checked


def _harvest_one(
    reader: RowReader,
    corpus: Sequence[Recording],
    folder: AnyPath,
    header: dict[str, Any],
    number: tuple[int, ...],
    bar: tqdm[Any],
) -> None:
    """The whole corpus, or the part of it that the header names."""
    with _alone(folder):
        manifest = read_manifest(folder) if (folder / MANIFEST).exists() else Manifest(header, versions())
        check_same(header, manifest, folder)
        _check_no_others(folder, manifest)
        run = _Run(reader, Part(corpus, range(manifest.span[1])), folder, manifest, number)
        run.repair()
        if manifest.complete:
            bar.update(manifest.span[1] - manifest.span[0])
        else:
            run.go_on(bar)


def _check_joined(folder: AnyPath, header: dict[str, Any]) -> None:
    if (folder / MANIFEST).exists():
        check_same(header, read_manifest(folder), folder)


def join_parts(
    reader: RowReader, corpus: Sequence[Recording], folder: AnyPath, header: dict[str, Any], n_parts: int
) -> None:
    """One manifest for all parts, which are complete."""
    whole = Manifest(header, versions(), complete=True)
    for number in range(n_parts):
        name = part_name(number)
        part = read_manifest(folder / name)
        whole.shards += [replace(one, file=f"{name}/{one.file}") for one in part.shards]
        whole.failures += part.failures
        whole.recordings += part.recordings
    if not whole.shards:
        raise _nothing(whole.failures, len(corpus))
    if reader.options.window == "sound":
        before = read_manifest(folder).deviation if (folder / MANIFEST).exists() else None
        whole.deviation = before or measure_deviation(reader, corpus)
    put(folder / MANIFEST, whole.encoded())


def _nothing(failures: Sequence[dict[str, Any]], n: int) -> HookedWhisperError:
    first = next(iter(failures), {"reason": "a margin that leaves nothing"})
    return HookedWhisperError(f"none of {n} recordings has rows; the first failed: {first['reason']}")


class _Run:
    """``corpus`` ends with the part's last recording; the part begins where its manifest says."""

    def __init__(
        self,
        reader: RowReader,
        corpus: Sequence[Recording],
        folder: AnyPath,
        manifest: Manifest,
        number: tuple[int, ...] = (),
    ) -> None:
        self.reader, self.corpus, self.folder, self.manifest = reader, corpus, folder, manifest
        self.number = number  # of the part, where there are several
        self.failures = {one["index"]: one for one in manifest.failures}

    def go_on(self, bar: tqdm[Any]) -> None:
        """From the last shard to the end. A shard is written while the next one is computed."""
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
        """Make shards anew whose files are missing or damaged."""
        for number, entry in enumerate(self.manifest.shards):
            if not (found := damage(self.folder, entry)):
                continue
            _log.warning("%s; doing that now", found.split(":", 1)[0])
            with closing(self._parts(entry.start)) as parts:
                part = next(parts, None)
            if part is None or (part.rows, part.end) != (entry.rows, entry.end):
                raise CheckpointError(
                    f"{self.folder / entry.file} cannot be made again: the recordings have other lengths than when it "
                    f"was written; collect into another folder"
                )
            again = self._write(part, number)
            if again != entry:
                _log.warning("%s has other bytes than before: another machine, or other sound", entry.file)
                self.manifest.shards[number] = again
                self._save()

    def _parts(self, start: Cursor, bar: tqdm | None = None) -> Generator[OpenShard, None, None]:
        """Shards to be, which end with a batch: so whoever begins at the end of one meets the same batches."""
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
        """The manifest. It lists the failures before its cursor: those behind it will be met again."""
        last = self.manifest.span[1] if self.manifest.complete else self.manifest.cursor[0]
        self.manifest.failures = [one for index, one in sorted(self.failures.copy().items()) if index < last]
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
            recording, sound = (column.numpy() for column in shard.windows())
            np.add.at(samples, recording, sound)
        rate = self.reader.model.time.sample_rate
        for k in range(first, end):
            one, seconds = self.corpus[k], round(float(samples[k]) / rate, 4)
            manifest.recordings.append(RecordingEntry(one.id, one.speaker, int(rows[k]), seconds))
        if self.reader.options.window == "sound" and not self.number:
            manifest.deviation = measure_deviation(self.reader, self.corpus)
        manifest.complete = True
        self._save()


def put(path: AnyPath, data: bytes) -> None:
    """``write_atomic``, with an error that says what to do."""
    try:
        write_atomic(path, data)
    except OSError as error:
        raise HookedWhisperError(
            f"{path} ({len(data) / 2**20:.0f} MiB) cannot be written: {error.strerror or error}. Make room or "
            "choose another place; what was written before stays, and the same call resumes from there"
        ) from error


def _check_no_others(folder: AnyPath, manifest: Manifest) -> None:
    """Raises ``HookedWhisperError`` for shards that the manifest does not know (but the one that a kill may leave)."""
    ours = {shard_name(number) for number in range(len(manifest.shards) + 1)}
    others = sorted(path.name for path in folder.glob("shard-*.safetensors") if path.name not in ours)
    if others:
        raise HookedWhisperError(
            f"{folder} holds shards of another store ({others[0]}, ...): choose another folder, or delete that one"
        )


@contextmanager
def _alone(folder: AnyPath) -> Iterator[None]:
    """The folder for this process only, without what a killed one left half written.

    Raises:
        HookedWhisperError: another process is harvesting into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            import fcntl
        except ImportError:  # Windows
            fcntl = None  # type: ignore[assignment]
        if fcntl is not None and is_local(folder):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HookedWhisperError(
                    f"another process is harvesting into {folder}: wait for it, or choose another folder"
                ) from error
            except OSError:  # a file system without locks
                _log.debug("%s cannot be locked", folder)
        for pattern in (".shard-*.safetensors.*", f".{MANIFEST}.*"):
            for left in folder.glob(pattern):
                left.unlink(missing_ok=True)
        yield
