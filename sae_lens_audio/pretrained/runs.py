"""Train the SAEs of a model from recipes: activations of the speech once, then one run after another."""

from __future__ import annotations

import json
import logging
import platform
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hooked_whisper._support.files import read_json
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper.corpora import Recording, Split, open_corpus
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.activations import (
    ActivationStore,
    CollectOptions,
    JoinedActivations,
    StoredActivations,
    collect_activations,
    open_store,
)
from sae_lens_audio.activations.manifest import MANIFEST, Manifest, header_of, read_manifest
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.formats import Metadata, save_sae
from sae_lens_audio.pretrained.recipes import Recipe, hooks_of
from sae_lens_audio.training.runs import TrainingRows, alone, describe, trainer_of
from sae_lens_audio.training.settings import Settings

log = logging.getLogger(__name__)

HELD_OUT = 0.03  # share of the rows, of the speakers with the fewest, to score on
EARLY = (1 / 16, 1 / 4)  # shares of the steps after which the SAE is written too
SHARD_ROWS = 2**15  # of up to 12 hook points
SHARDS_TOGETHER = 8
KINDS = ("flite", "human", "kokoro")  # beginnings of the names of speakers in our training speech


@dataclass(frozen=True)
class TrainingRun:
    """One SAE to train: a recipe at a block of the encoder, with a seed."""

    recipe: Recipe
    block: int
    seed: int = 0

    @property
    def name(self) -> str:
        suffix = f"-seed{self.seed}" if self.seed else ""
        return f"encoder.blocks.{self.block}-{self.recipe.name}{suffix}"


def open_speech(place: str) -> list[Recording]:
    """Open a corpus in random order, so that each shard of activations has all kinds of its speech."""
    corpus = open_corpus(place)
    random.Random(0).shuffle(corpus)
    return corpus


def collect(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    recipes: Sequence[Recipe],
    blocks: Sequence[int],
    folder: Path,
    ranks: TorchRanks | None = None,
) -> ActivationStore:
    """Collect the activations that recipes read at some blocks, in one pass, to a folder below ``folder``.

    A finished store there that has these hook points, and perhaps more, of the same corpus is opened instead.
    """
    kinds = sorted({recipe.reads for recipe in recipes})
    hooks = [hook for reads in kinds for block in blocks for hook in hooks_of(reads, block)]
    options = CollectOptions(shard_rows=SHARD_ROWS)
    header = header_of(corpus, RowReader(model, hooks, options))
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        if _has_all(read_manifest(path.parent), header):
            return open_store(path.parent, verify=False)
    name = "-".join([header["corpus_sha256"][:8], *kinds, *map(str, blocks)])
    return collect_activations(model, corpus, hooks, folder / name, options, progress=sys.stderr.isatty(), ranks=ranks)


def _has_all(manifest: Manifest, header: Mapping[str, Any]) -> bool:
    """Whether a store is finished and has the hook points of ``header``, and the rest of it is equal."""
    hooks = {hook["name"] for hook in manifest.header["hooks"]}
    same = all(manifest.header.get(key) == value for key, value in header.items() if key != "hooks")
    return manifest.complete and same and {hook["name"] for hook in header["hooks"]} <= hooks


def split_off_speakers(stores: Sequence[ActivationStore], share: float = HELD_OUT) -> list[Split]:
    """Split the recordings of each store: those to train on, and those of the speakers that are held out.

    Held out are the speakers with the fewest rows in all stores, until they have ``share`` of the rows. A recording
    that is in several stores is read from the first.
    """
    selected = _without_repeats(stores)
    rows: Counter[str] = Counter()
    for store, indices in zip(stores, selected, strict=True):
        for recording in (store.recordings[k] for k in indices):
            rows[recording.speaker or recording.id] += recording.rows
    held_out, total = set(), 0
    for speaker, count in sorted(rows.items(), key=lambda item: (item[1], item[0]))[:-1]:
        if total >= share * rows.total():
            break
        held_out.add(speaker)
        total += count
    return [_split(store, indices, held_out) for store, indices in zip(stores, selected, strict=True)]


def _without_repeats(stores: Sequence[ActivationStore]) -> list[list[int]]:
    """Return the recordings of each store that have rows and whose id no earlier store has."""
    ids: set[str] = set()
    selected = []
    for store in stores:
        selected.append([k for k, entry in enumerate(store.recordings) if entry.rows and entry.id not in ids])
        ids.update(entry.id for entry in store.recordings)
    return selected


def _split(store: ActivationStore, indices: Sequence[int], held_out: Set[str]) -> Split:
    is_test = np.array([(store.recordings[k].speaker or store.recordings[k].id) in held_out for k in indices], bool)
    recordings = np.array(indices, dtype=int)
    return Split(recordings[~is_test], recordings[is_test])


def training_rows(stores: Sequence[ActivationStore], hooks: Sequence[str]) -> TrainingRows:
    """Return the rows of all stores to train on, mixed, without those of held-out speakers."""
    splits = split_off_speakers(stores)
    sources = [
        StoredActivations(store, hooks, split.train, SHARDS_TOGETHER)
        for store, split in zip(stores, splits, strict=True)
        if len(split.train)
    ]
    activations = sources[0] if len(sources) == 1 else JoinedActivations(sources)
    return TrainingRows(activations, stores, [split.test for split in splits])


def hours_by_kind(stores: Sequence[ActivationStore]) -> dict[str, float]:
    """Return the hours of each kind of speech, by the beginning of the speaker's name (``"human-June"``)."""
    seconds: dict[str, float] = defaultdict(float)
    for store, indices in zip(stores, _without_repeats(stores), strict=True):
        for recording in (store.recordings[k] for k in indices):
            kind = recording.speaker.partition("-")[0]
            seconds[kind if kind in KINDS else "other"] += recording.seconds
    return {kind: round(total / 3600, 2) for kind, total in sorted(seconds.items())}


def train(
    run: TrainingRun,
    stores: Sequence[ActivationStore],
    folder: Path,
    *,
    command: str = "",
    steps: int | None = None,
    device: torch.device | str = "cpu",
    ranks: TorchRanks | None = None,
) -> Mapping[str, Any] | None:
    """Train an SAE, or resume it, and write ``folder/sae`` in float16; return its held-out scores.

    ``folder/at-0.0625`` and ``folder/at-0.25`` are the SAE after these shares of the steps. A finished run is not
    repeated. Returns ``None`` in all processes but the first.

    Raises:
        TrainingError: ``folder`` has a run with other settings.
        HookedWhisperError: another process trains in ``folder``.
    """
    with alone(folder, ranks):
        return _train(run, stores, folder, command, steps, device, ranks)


def _train(
    run: TrainingRun,
    stores: Sequence[ActivationStore],
    folder: Path,
    command: str,
    steps: int | None,
    device: torch.device | str,
    ranks: TorchRanks | None,
) -> Mapping[str, Any] | None:
    hooks = run.recipe.hooks(run.block)
    rows = training_rows(stores, hooks)
    settings = run.recipe.settings(rows.activations.widths[0], run.block, run.seed, steps)
    if finished := finished_metadata(folder):
        check_finished(finished, describe(settings, rows), folder)
        log.info("%s: finished before, %s", folder.name, finished["held_out"])
        return finished["held_out"]
    hours = hours_by_kind(stores)
    origin = {"recipe": run.recipe.name, "speech_hours": hours, "command": command, "machine": machine(device, ranks)}
    trainer = trainer_of(settings, rows, folder, corpus=_described(hours), origin=origin, device=device, ranks=ranks)
    first_step, began = trainer.number, time.monotonic()
    snapshots = {max(1, round(share * settings.training.steps)): folder / f"at-{share:g}" for share in EARLY}
    sae = trainer.fit(progress=False, snapshots=snapshots)
    if ranks is not None and ranks.rank:
        return None
    steps_here = max(1, trainer.number - first_step)
    cost = _cost(settings, (time.monotonic() - began) / steps_here)
    metadata = replace(sae.metadata, extra={**sae.metadata.extra, **cost})
    save_sae(sae.to_dtype(torch.float16), folder / "sae", metadata, trainer.dead.log_rates.half())
    log.info("%s: %s, %.0f s", folder.name, metadata.extra["held_out"], cost["seconds"])
    return metadata.extra["held_out"]


def finished_metadata(folder: Path) -> Mapping[str, Any] | None:
    """Return the metadata of a run's finished SAE; ``None`` if it is not finished."""
    path = folder / "sae" / "cfg.json"
    if not path.is_file():
        return None
    metadata = read_json(path)["metadata"]
    return metadata if "seconds" in metadata else None


def check_finished(finished: Mapping[str, Any], planned: Metadata, folder: Path) -> None:
    """Compare the metadata of a finished run with that of the run that was asked for.

    A run on other speech is kept, with a warning, because scores of several corpora may be wanted in one folder.

    Raises:
        TrainingError: the settings of the training differ.
    """
    before, now = finished.get("training") or {}, planned.extra["training"]
    different = [
        f"{key} was {before[key]!r}, now {value!r}"
        for key, value in now.items()
        if key in before and json.dumps(before[key]) != json.dumps(value)
    ]
    if different:
        raise TrainingError(
            f"{folder / 'sae'} is of a finished run with other settings ({'; '.join(different[:4])}): choose another "
            "folder for the runs, or delete that one"
        )
    if finished.get("corpus_sha256") not in (None, planned.corpus_sha256):
        log.warning("%s was trained on other speech (%s): it is kept", folder / "sae", finished.get("corpus"))


def machine(device: torch.device | str, ranks: TorchRanks | None) -> str:
    """Describe the hardware of a run: device, processes and threads."""
    device = torch.device(device)
    processes = 1 if ranks is None else ranks.n
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    threads = f"{torch.get_num_threads()} CPU thread{'s' if torch.get_num_threads() > 1 else ''} ({platform.machine()})"
    return threads if processes == 1 else f"{processes} processes of {threads}"


def _cost(settings: Settings, seconds_per_step: float) -> dict[str, Any]:
    training = settings.training
    return {"trained_rows": training.steps * training.batch, "seconds": round(training.steps * seconds_per_step, 1)}


def _described(hours: Mapping[str, float]) -> str:
    parts = ", ".join(f"{kind} {number:.1f} h" for kind, number in hours.items())
    return f"{sum(hours.values()):.1f} hours of speech: {parts}"
