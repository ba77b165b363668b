"""One pass over any number of recordings, for all features of several hook points at once.

What an afternoon with a notebook does for one neuron (run the encoder, look where it is largest, listen), done for all
of them: largest activations, uniform samples over the range, statistics. Memory depends on features and options, not
on the corpus.
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
from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.corpora import Recording, fingerprint, own_text_fact
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan.chunks import ChunkScan
from hooked_whisper.features.scan.reader import FeatureReader
from hooked_whisper.features.scan.records import Scan, ScanOptions
from hooked_whisper.features.scan.states import StateFiles, check_same
from hooked_whisper.features.scan.store import HEADER, load_scan, save_scan
from hooked_whisper.hooked import HookedWhisper


def scan(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    sites: Sequence[HookBasis | str],
    folder: Place,
    options: ScanOptions | None = None,
    *,
    progress: bool = True,
    checkpoint_s: float | int = 60.0,
    ranks: TorchRanks | None = None,
) -> Scan:
    """Scan a corpus and write ``folder``; go on where an earlier call was killed; read it back where one was done.

    Args:
        corpus: see :mod:`hooked_whisper.corpora`. What cannot be read is skipped, counted, and listed in the header.
        sites: hook points of the encoder (``"encoder.blocks.2.mlp.1"``), or :class:`HookBasis` for a basis at one.
        folder: path or URL; gets ``features.parquet``, ``ranges.parquet``, ``examples.parquet`` and ``scan.json``.
        options: what to keep, see :class:`ScanOptions`.
        checkpoint_s: seconds between checkpoints, which are taken between chunks of ``options.chunk`` recordings; they
            do not change the result.
        ranks: the other processes, see :func:`~hooked_whisper._support.ranks.torchrun_ranks` (the CPU's group: they
            only wait for each other). All must see the same folder.

    Positions of padding never count. Recordings longer than the model's window are cut into windows; seconds and
    positions go on counting from the start of the recording. The files have the same bytes whether one process wrote
    them or several, killed and resumed by as many or by others (on the same machines, with as many threads each).

    Raises:
        HookedWhisperError: nothing to scan, a folder with another scan, activations that are not finite.
        CheckpointError: a checkpoint of an earlier call that cannot be read.
    """
    options = ScanOptions() if options is None else options
    folder = as_path(folder)
    wanted = [HookBasis(one) if isinstance(one, str) else one for one in sites]

    def new_readers() -> list[FeatureReader]:
        return [FeatureReader(model, site, options) for site in wanted]

    readers = new_readers()
    names = [reader.name for reader in readers]
    if not names or len(set(names)) < len(names):
        raise HookedWhisperError(f"a scan needs sites with different names, got {names or 'none'}")
    if not len(corpus):
        raise HookedWhisperError("the corpus has no recordings: there is nothing to scan")
    header = _header(model, corpus, wanted, readers, options)
    if (folder / HEADER).exists():
        done = load_scan(folder)
        check_same(header, done.header, folder)
        return done
    run = ChunkScan(model, corpus, new_readers, StateFiles(folder, header), options, ranks)
    if run.go(progress, checkpoint_s):
        found = run.progress
        failures = sorted(found.failures, key=lambda one: one["index"])
        if not found.recordings:
            first = next(iter(failures), {"reason": "nothing in it"})
            raise HookedWhisperError(f"none of {len(corpus)} recordings could be read; the first: {first['reason']}")
        header |= {
            "recordings": found.recordings,
            "seconds": round(found.samples / model.time.sample_rate, 3),
            "failures": failures,
        }
        results = [reader.result() for reader in run.readers]
        save_scan(folder, results, corpus, header, model.time.seconds_per_position)
    run.end()
    return load_scan(folder)


def _header(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    sites: Sequence[HookBasis],
    readers: Sequence[FeatureReader],
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
        **({"texts": texts} if (texts := own_text_fact(corpus)) else {}),
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
