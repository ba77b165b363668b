"""One pass over any number of recordings, for all features of several hook points at once.

What an afternoon with a notebook does for one neuron (run the encoder, look where it is largest, listen), done for all
of them: largest activations, uniform samples over the range, statistics. Memory depends on features and options, not
on the corpus.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from hooked_whisper.corpora import Failure, Recording, Window, batched, fingerprint, windows_from
from hooked_whisper.errors import CheckpointError, HookedWhisperError
from hooked_whisper.features.scanning.priority import priorities
from hooked_whisper.features.scanning.reader import SiteReader
from hooked_whisper.features.scanning.records import Scan, ScanOptions
from hooked_whisper.features.scanning.store import HEADER, load_scan, save_scan
from hooked_whisper.features.sites import Site
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.storage import write_atomic

STATE = "state.safetensors"


def scan(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    sites: Sequence[Site | str],
    folder: str | Path,
    options: ScanOptions | None = None,
    *,
    progress: bool = True,
    checkpoint_s: float | int = 60.0,
) -> Scan:
    """Scan a corpus and write ``folder``; go on where an earlier call was killed; read it back where one was done.

    Args:
        corpus: see :mod:`hooked_whisper.corpora`. What cannot be read is skipped, counted, and listed in the header.
        sites: hook points of the encoder (``"encoder.blocks.2.mlp.1"``), or :class:`Site` for a basis at one.
        folder: gets ``features.parquet``, ``ranges.parquet``, ``examples.parquet`` and ``scan.json``.
        options: what to keep, see :class:`ScanOptions`.
        checkpoint_s: seconds between checkpoints; they do not change the result.

    Positions of padding never count. Recordings longer than the model's window are cut into windows; seconds and
    positions go on counting from the start of the recording. A resumed scan writes the same bytes as one that ran
    through (on the same machine, with as many threads).

    Raises:
        HookedWhisperError: nothing to scan, a folder with another scan, activations that are not finite.
    """
    options = ScanOptions() if options is None else options
    folder = Path(folder)
    wanted = [Site(one) if isinstance(one, str) else one for one in sites]
    readers = [SiteReader(model, site, options) for site in wanted]
    names = [reader.name for reader in readers]
    if not names or len(set(names)) < len(names):
        raise HookedWhisperError(f"a scan needs sites with different names, got {names or 'none'}")
    if not len(corpus):
        raise HookedWhisperError("the corpus has no recordings: there is nothing to scan")
    header = _header(model, corpus, wanted, readers, options)
    if (folder / HEADER).exists():
        done = load_scan(folder)
        _same(header, done.header, folder)
        return done
    _Run(model, corpus, readers, folder, options, header).go(progress, checkpoint_s)
    return load_scan(folder)


class _Run:
    """The pass itself: ``cursor`` is the recording and window to read next."""

    def __init__(
        self,
        model: HookedWhisper,
        corpus: Sequence[Recording],
        readers: Sequence[SiteReader],
        folder: Path,
        options: ScanOptions,
        header: dict[str, Any],
    ) -> None:
        self.model, self.corpus, self.readers, self.folder = model, corpus, readers, folder
        self.options, self.header = options, header
        self.cursor = (0, 0)
        self.failures: dict[int, dict[str, Any]] = {}
        self.seconds = 0.0
        self.recordings = 0

    def go(self, progress: bool, checkpoint_s: float | int) -> None:
        self._resume()
        saved = time.monotonic()
        bar = tqdm(total=len(self.corpus), initial=self.cursor[0], unit="file", desc="scan", disable=not progress)
        with bar, torch.no_grad():
            windows = windows_from(self.corpus, self.model.time.n_samples, self.cursor, failed=self._failed)
            for batch in batched(windows, self.options.batch):
                self._take(batch)
                bar.update(self.cursor[0] - bar.n)
                if time.monotonic() - saved > checkpoint_s:
                    self._save()
                    saved = time.monotonic()
            bar.update(len(self.corpus) - bar.n)
        if not self.recordings:
            first = next(iter(self.failures.values()), {"reason": "nothing in it"})
            raise HookedWhisperError(
                f"none of {len(self.corpus)} recordings could be read; the first: {first['reason']}"
            )
        found = {
            "recordings": self.recordings,
            "seconds": round(self.seconds, 3),
            "failures": [self.failures[i] for i in sorted(self.failures)],
        }
        results = [reader.result() for reader in self.readers]
        save_scan(self.folder, results, self.corpus, self.header | found, self.model.time.seconds_per_position)
        (self.folder / STATE).unlink(missing_ok=True)

    def _failed(self, failure: Failure) -> None:
        self.failures[failure.index] = asdict(failure)

    def _take(self, batch: Sequence[Window]) -> None:
        clock = self.model.time
        hooks = sorted({reader.hook for reader in self.readers})
        mel = self.model.to_mel([window.samples for window in batch])
        _, cache = self.model.run_with_cache(mel, names=hooks, return_type=None)
        for row, window in enumerate(batch):
            name = self.corpus[window.recording].id
            seconds = window.length / clock.sample_rate
            filled, first = clock.n_positions(seconds), window.number * clock.n_ctx
            priority = priorities(name, range(first, first + filled), self.options.seed).to(self.model.device)
            for reader in self.readers:
                reader.add(cache[reader.hook][row, :filled], window.recording, name, first, priority)
            self.seconds += seconds
            self.recordings += window.last
        self.cursor = batch[-1].after

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {f"{i}.{key}": t.contiguous() for i, one in enumerate(self.readers) for key, t in one.state().items()}
        progress = {
            "cursor": self.cursor,
            "seconds": self.seconds,
            "recordings": self.recordings,
            "failures": [self.failures[i] for i in sorted(self.failures) if i < self.cursor[0]],
        }
        metadata = {"header": json.dumps(self.header), "progress": json.dumps(progress)}
        write_atomic(self.folder / STATE, save(tensors, metadata))

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            header, progress = json.loads(metadata["header"]), json.loads(metadata["progress"])
            tensors = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint {path} cannot be read ({error}): delete it to start again"
            ) from error
        _same(self.header, header, self.folder)
        for i, reader in enumerate(self.readers):
            prefix = f"{i}."
            reader.load({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})
        self.cursor = (progress["cursor"][0], progress["cursor"][1])
        self.seconds, self.recordings = progress["seconds"], progress["recordings"]
        self.failures = {one["index"]: one for one in progress["failures"]}


def _header(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    sites: Sequence[Site],
    readers: Sequence[SiteReader],
    options: ScanOptions,
) -> dict[str, Any]:
    """What makes two scans the same."""
    described = [
        {"name": r.name, "hook": r.hook, "features": len(r.labels), "basis": _basis_digest(site.basis)}
        for site, r in zip(sites, readers, strict=True)
    ]
    return {
        "model": model.cfg.name,
        "weights": _digest(model.parameters()),
        "corpus": fingerprint(corpus),
        "corpus_recordings": len(corpus),
        "scanned": described,
        "options": asdict(options),
    }


def _basis_digest(basis: Any) -> str:
    """Kind, labels and tensors of a basis, so that a scan does not go on with another one."""
    if basis is None:
        return "axes"
    labels = hashlib.sha256("\0".join(basis.labels).encode()).hexdigest()[:16]
    return f"{type(basis).__name__} {labels} {_digest(_tensors(basis))}"


def _tensors(holder: Any) -> Iterator[Tensor]:
    """Of a module, or of a dataclass and what it wraps."""
    if isinstance(holder, Tensor):
        yield holder
    elif isinstance(holder, torch.nn.Module):
        yield from holder.state_dict().values()
    elif is_dataclass(holder):
        for field in fields(holder):
            yield from _tensors(getattr(holder, field.name))


def _digest(tensors: Iterable[Tensor]) -> str:
    """Of some sums, so that it costs little for a large model."""
    sums = [float(t.detach().double().sum()) for t in tensors]
    return hashlib.sha256(np.array(sums).tobytes()).hexdigest()[:16]


def _same(ours: dict[str, Any], theirs: dict[str, Any], folder: Path) -> None:
    for key, value in json.loads(json.dumps(ours)).items():
        if theirs.get(key) != value:
            raise HookedWhisperError(
                f"{folder} holds a scan with another {key} ({theirs.get(key)!r}, not {value!r}): "
                "choose another folder, or delete that one"
            )
