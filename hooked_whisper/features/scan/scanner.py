"""One pass over any number of recordings, for all features of several hook points at once.

A scan finds each feature's largest activations, uniform samples over its range, and statistics. Memory depends on the
features and options, not on the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.activations.deviation import measure_deviation
from hooked_whisper.corpora import Recording, fingerprint, own_text_fact
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan.chunks import ChunkScan
from hooked_whisper.features.scan.reader import FeatureReader
from hooked_whisper.features.scan.records import Scan, ScanOptions
from hooked_whisper.features.scan.states import StateFiles, check_same
from hooked_whisper.features.scan.store import HEADER, load_scan, save_scan
from hooked_whisper.hooked import HookedWhisper

_OPTION_KEYS = {"per_bin": "per_cell"}  # names of options in scan.json, where they differ


@renamed_arguments(sites="hooks")
def scan(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    hooks: Sequence[HookBasis | str],
    folder: Place,
    options: ScanOptions | None = None,
    *,
    progress: bool = True,
    checkpoint_s: float | int = 60.0,
    ranks: TorchRanks | None = None,
) -> Scan:
    """Scan a corpus and write the results to ``folder``.

    A call that was killed is resumed; a finished scan is read back.

    Args:
        corpus: see :mod:`hooked_whisper.corpora`. Recordings that cannot be read are skipped and listed in the header.
        hooks: hook points of the encoder (``"encoder.blocks.2.mlp.1"``), or :class:`HookBasis` for a basis at one.
        folder: path or URL for ``features.parquet``, ``ranges.parquet``, ``examples.parquet`` and ``scan.json``.
        options: see :class:`ScanOptions`.
        checkpoint_s: seconds between checkpoints, which are written between chunks of ``options.chunk`` recordings.
            They do not change the result.
        ranks: processes that share the scan, see :func:`~hooked_whisper._support.ranks.torchrun_ranks` (CPU group). All
            of them must see the same folder.

    Padding is not counted. Recordings longer than the model's window are cut into windows; seconds and positions are
    counted from the start of the recording. On one kind of machine and with the same number of threads, the files
    have the same bytes for any number of processes and interruptions.

    Raises:
        HookedWhisperError: there is nothing to scan, the folder has another scan, or an activation is not finite.
        CheckpointError: a checkpoint of an earlier call cannot be read.
    """
    options = ScanOptions() if options is None else options
    folder = as_path(folder)
    bases = [HookBasis(hook) if isinstance(hook, str) else hook for hook in hooks]

    def new_readers() -> list[FeatureReader]:
        return [FeatureReader(model, basis, options) for basis in bases]

    readers = new_readers()
    names = [reader.name for reader in readers]
    if not names or len(set(names)) < len(names):
        raise HookedWhisperError(
            f"the hook points or bases are named {names}: give at least one, each with its own name"
        )
    if not len(corpus):
        raise HookedWhisperError("the corpus has no recordings: there is nothing to scan")
    header = _header(model, corpus, bases, readers, options)
    if (folder / HEADER).exists():
        finished = load_scan(folder)
        check_same(header, finished.header, folder)
        return finished
    chunk_scan = ChunkScan(model, corpus, new_readers, StateFiles(folder, header), options, ranks)
    if chunk_scan.run(progress, checkpoint_s):
        done = chunk_scan.progress
        failures = sorted(done.failures, key=lambda failure: failure["index"])
        if not done.recordings:
            first = next(iter(failures), {"reason": "it is empty"})
            raise HookedWhisperError(f"none of {len(corpus)} recordings could be read; the first: {first['reason']}")
        header |= {
            "recordings": done.recordings,
            "seconds": round(done.samples / model.time.sample_rate, 3),
            "failures": failures,
        }
        if options.window == "sound":
            header["deviation"] = measure_deviation(chunk_scan.stream, corpus)
        results = [reader.result() for reader in chunk_scan.readers]
        save_scan(folder, results, corpus, header, model.time.seconds_per_position)
    chunk_scan.finish()
    return load_scan(folder)


def _header(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    bases: Sequence[HookBasis],
    readers: Sequence[FeatureReader],
    options: ScanOptions,
) -> dict[str, Any]:
    """Everything that affects the result: two scans with equal headers are the same."""
    described = [
        {"name": r.name, "hook": r.hook, "features": len(r.labels), "basis": _basis_digest(basis.basis)}
        for basis, r in zip(bases, readers, strict=True)
    ]
    return {
        "model": model.cfg.name,
        "weights": _digest(model.parameters()),
        "corpus": fingerprint(corpus),
        "corpus_recordings": len(corpus),
        **({"texts": texts} if (texts := own_text_fact(corpus)) else {}),
        "scanned": described,
        "options": _described(options),
    }


def _described(options: ScanOptions) -> dict[str, Any]:
    described = {_OPTION_KEYS.get(name, name): value for name, value in asdict(options).items()}
    if options.window == "full":  # as scans that were written before there was a choice
        del described["window"], described["beyond"]
    return described


def _basis_digest(basis: Any) -> str:
    """Digest of a basis's type, labels and tensors, so that a scan is not resumed with another basis."""
    if basis is None:
        return "axes"
    labels = hashlib.sha256("\0".join(basis.labels).encode()).hexdigest()[:16]
    return f"{type(basis).__name__} {labels} {_digest(_tensors(basis))}"


def _tensors(holder: Any) -> Iterator[Tensor]:
    """Tensors of a module, or of a dataclass and its fields."""
    if isinstance(holder, Tensor):
        yield holder
    elif isinstance(holder, torch.nn.Module):
        yield from holder.state_dict().values()
    elif is_dataclass(holder):
        for field in fields(holder):
            yield from _tensors(getattr(holder, field.name))


def _digest(tensors: Iterable[Tensor]) -> str:
    """Hash the sums of tensors, which is fast for a large model."""
    sums = [float(t.detach().double().sum()) for t in tensors]
    return hashlib.sha256(np.array(sums).tobytes()).hexdigest()[:16]
