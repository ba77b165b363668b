"""A training run from its settings: activations, trainer, and scores on held-out speakers."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hooked_whisper._support.locks import locked
from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, Place, as_path
from sae_lens_audio.activations import (
    ActivationSource,
    ActivationStore,
    CollectOptions,
    StoredActivations,
    StreamedActivations,
    open_store,
)
from sae_lens_audio.architectures import ARCHITECTURES, SAE
from sae_lens_audio.formats import Metadata
from sae_lens_audio.training import Trainer
from sae_lens_audio.training.log import TensorBoard, Wandb, Writer
from sae_lens_audio.training.settings import ActivationSettings, Settings

SCORED = 50_000  # held-out rows


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """Activations to train on. stores: what they are read from; none if they are streamed. tests: indices of the
    held-out recordings of each store, if any.
    """

    activations: ActivationSource
    stores: Sequence[ActivationStore] = ()
    tests: Sequence[Int[np.ndarray, "_"]] = ()  # each store has another number


def source_of(
    settings: ActivationSettings, device: torch.device | str = "cpu", store: ActivationStore | None = None
) -> TrainingRows:
    """Open the activations that the settings name: a store (``store`` overrides it), or a model that streams them."""
    if store is None and not settings.store:
        return TrainingRows(_streamed(settings, device))
    store = open_store(settings.store) if store is None else store
    speakers = {recording.speaker for recording in store.recordings if recording.rows}
    split = store.split_by_speaker(1 - settings.held_out) if settings.held_out and len(speakers) > 1 else None
    train = None if split is None else split.train
    activations = StoredActivations(store, settings.names, train, settings.shards_together)
    return TrainingRows(activations, [store], [] if split is None else [split.test])


def _streamed(settings: ActivationSettings, device: torch.device | str) -> ActivationSource:
    from hooked_whisper.cli.corpus_arguments import corpus_of
    from hooked_whisper.hooked import HookedWhisper

    corpus, _ = corpus_of(  # before the model: a wrong path is reported at once
        argparse.Namespace(
            model=settings.model,
            audio=settings.audio,
            layout=settings.layout,
            speaker_folders=settings.speaker_folders,
            sentences=settings.sentences,
            speakers=settings.speakers,
            seed=settings.corpus_seed,
        )
    )
    options_class: Any = CollectOptions  # checks the strings itself
    options = options_class(
        dtype=settings.dtype, batch=settings.batch, padding=settings.padding, margin=settings.margin
    )
    model = HookedWhisper.from_pretrained(settings.model, device=device)
    return StreamedActivations(model, corpus, list(settings.names), settings.recordings_per_chunk, options)


def trainer_of(
    settings: Settings,
    source: TrainingRows,
    folder: Place,
    *,
    corpus: str = "",
    origin: Mapping[str, Any] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    ranks: TorchRanks | None = None,
) -> Trainer:
    """Make a trainer that resumes from the folder. The metadata of the SAE it writes has the scores on held-out
    speakers as ``extra["held_out"]``.

    corpus: description of the training data (default: number of recordings). origin: more values for ``extra``.

    Raises:
        TrainingError: the settings do not fit the activations, or the folder has another run.
    """
    metadata = describe(settings, source)
    metadata = replace(metadata, corpus=corpus or metadata.corpus, extra={**metadata.extra, **origin})

    def scored(sae: SAE) -> Metadata:
        if not any(map(len, source.tests)):
            return metadata
        scores = held_out_scores(sae, source, settings.activations.names)
        return replace(metadata, extra={**metadata.extra, "held_out": scores})

    return Trainer(
        settings.make_sae(source.activations.widths),
        source.activations,
        settings.training,
        folder,
        metadata=scored,
        device=device,
        ranks=ranks,
        writers=_writers(settings),
        log_every=settings.run.log_every,
    )


@contextmanager
def alone(folder: Place, ranks: TorchRanks | None = None) -> Iterator[None]:
    """Lock the folder of a run, so that no other command trains in it at the same time.

    Raises:
        HookedWhisperError: another one does.
    """
    if ranks is not None and ranks.rank:
        yield
        return
    path = as_path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with locked(path, "training in"):
        yield


def describe(settings: Settings, source: TrainingRows) -> Metadata:
    """Return the hook points, model and training data of the SAE."""
    header = _header(source)
    names, cls = source.activations.hooks, ARCHITECTURES[settings.sae["architecture"]]
    corpus = settings.activations.audio or (settings.activations.store if source.stores else "synthetic corpus")
    return Metadata(
        hook_name=", ".join(names) if cls.reads_several_hooks else names[0],
        hook_name_out=names[1] if cls.predicts_other_hook else None,
        checkpoint=header["model"],
        checkpoint_sha256=header["checkpoint_sha256"],
        sample_rate=header["sample_rate"],
        corpus=f"{header['corpus_recordings']} recordings of {Path(corpus).name}",
        corpus_sha256=header["corpus_sha256"],
        padding=header["padding"],
        extra={"training": asdict(settings.training)},
    )


def _header(source: TrainingRows) -> dict[str, Any]:
    """Return the identity of the activations: of the stream, or of all stores together."""
    if not source.stores:
        header: dict[str, Any] = source.activations.describe()["header"]
        return header
    headers = [dict(store.header) for store in source.stores]
    if len(headers) == 1:
        return headers[0]
    digests = "".join(header["corpus_sha256"] for header in headers)
    return headers[0] | {
        "corpus_recordings": sum(header["corpus_recordings"] for header in headers),
        "corpus_sha256": hashlib.sha256(digests.encode()).hexdigest(),
    }


def held_out_scores(sae: SAE, source: TrainingRows, hooks: tuple[str, ...]) -> dict[str, Any]:
    """Return explained variance, L0 and the share of features that never fire, on rows of held-out recordings."""
    from sae_lens_audio.evals.reconstruction import ReconstructionScores

    pairs = [(store, test) for store, test in zip(source.stores, source.tests, strict=True) if len(test)]
    chunks = [store.read(hooks, test, most=SCORED // len(pairs)) for store, test in pairs]
    rows = tuple(torch.cat([chunk.rows[k] for chunk in chunks]) for k in range(len(chunks[0].rows)))
    inputs = sae.training_inputs(rows)
    batch = (inputs[0], inputs[1]) if sae.predicts_other_hook else inputs[0]
    scores = ReconstructionScores.of(sae, [batch], hook=", ".join(hooks))
    return {
        "rows": len(inputs[0]),
        "explained_variance": round(scores.explained_variance, 5),
        "l0": round(scores.l0, 3),
        "dead": round(scores.dead_fraction, 5),
    }


def _writers(settings: Settings) -> list[Callable[[AnyPath, int], Writer]]:
    config = {"sae": dict(settings.sae), "training": asdict(settings.training)}
    makers: dict[str, Callable[[AnyPath, int], Writer]] = {
        "tensorboard": TensorBoard,
        "wandb": partial(Wandb, config=config),
    }
    return [makers[name] for name in settings.run.log]
