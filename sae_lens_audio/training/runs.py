"""A run as its settings say: rows to train on, the trainer, and scores on the speakers that were left out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hooked_whisper._support.ranks import TorchRanks
from hooked_whisper._support.storage import AnyPath, Place
from sae_lens_audio.activations import (
    ActivationSource,
    ActivationStore,
    CollectOptions,
    StoredActivations,
    StreamedActivations,
    open_store,
)
from sae_lens_audio.architectures import ARCHITECTURES, SAE, Crosscoder, Transcoder
from sae_lens_audio.formats import Metadata
from sae_lens_audio.training import Trainer
from sae_lens_audio.training.log import TensorBoard, Wandb, Writer
from sae_lens_audio.training.settings import ActivationSettings, Settings

SCORED = 50_000  # held-out rows


@dataclass(frozen=True, eq=False)
class Source:
    """Rows to train on. store: where they lie, if they were harvested before; test: its recordings that are left out of
    training, if any are.
    """

    blocks: ActivationSource
    store: ActivationStore | None = None
    test: Any = None


def source_of(
    settings: ActivationSettings, device: torch.device | str = "cpu", store: ActivationStore | None = None
) -> Source:
    """The store that the settings name, or the one given in its place; without one, a model that harvests meanwhile."""
    if store is None and not settings.store:
        return Source(_streamed(settings, device))
    store = open_store(settings.store) if store is None else store
    speakers = {one.speaker for one in store.recordings if one.rows}
    split = store.split_by_speaker(1 - settings.held_out) if settings.held_out and len(speakers) > 1 else None
    train = None if split is None else split.train
    blocks = StoredActivations(store, settings.names, train, settings.shards_together)
    return Source(blocks, store, None if split is None else split.test)


def _streamed(settings: ActivationSettings, device: torch.device | str) -> ActivationSource:
    from hooked_whisper.cli.corpus_arguments import corpus_of
    from hooked_whisper.hooked import HookedWhisper

    model = HookedWhisper.from_pretrained(settings.model, device=device)
    corpus, _ = corpus_of(
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
    checked: Any = CollectOptions  # texts are checked there
    options = checked(dtype=settings.dtype, batch=settings.batch, padding=settings.padding, margin=settings.margin)
    return StreamedActivations(model, corpus, list(settings.names), settings.recordings_per_block, options)


def trainer_of(
    settings: Settings,
    source: Source,
    folder: Place,
    *,
    device: torch.device | str = "cpu",
    ranks: TorchRanks | None = None,
) -> Trainer:
    """Ready to go on from where the folder is; the metadata of the dictionary it writes has the scores on speakers that
    were left out, as ``extra["held_out"]``.

    Raises:
        TrainingError: settings that do not fit the activations, a folder with another run.
    """
    metadata = describe(settings, source)

    def scored(sae: SAE) -> Metadata:
        if source.store is None or source.test is None:
            return metadata
        scores = held_out_scores(sae, source.store, settings.activations.names, source.test)
        return replace(metadata, extra={**metadata.extra, "held_out": scores})

    return Trainer(
        settings.make_dictionary(source.blocks.widths),
        source.blocks,
        settings.training,
        folder,
        metadata=scored,
        device=device,
        ranks=ranks,
        writers=_writers(settings),
        log_every=settings.run.log_every,
    )


def describe(settings: Settings, source: Source) -> Metadata:
    """Where the dictionary belongs, and what it is trained on."""
    store = source.store
    header = source.blocks.describe()["header"] if store is None else store.header
    names, transcodes = source.blocks.hooks, issubclass(ARCHITECTURES[settings.dictionary["architecture"]], Transcoder)
    several = len(names) > 1 and not transcodes
    corpus = settings.activations.audio or (settings.activations.store if store is not None else "synthetic corpus")
    return Metadata(
        hook_name=", ".join(names) if several else names[0],
        hook_name_out=names[1] if transcodes else None,
        checkpoint=header["model"],
        checkpoint_sha256=header["checkpoint_sha256"],
        sample_rate=header["sample_rate"],
        corpus=f"{header['corpus_recordings']} recordings of {Path(corpus).name}",
        corpus_sha256=header["corpus_sha256"],
        padding=header["padding"],
        extra={"training": asdict(settings.training)},
    )


def held_out_scores(sae: SAE, store: ActivationStore, hooks: tuple[str, ...], recordings: Any) -> dict[str, Any]:
    """Explained variance, L0 and the share of features that never fire, on rows of some recordings."""
    from sae_lens_audio.evals.reconstruction import ReconstructionScores

    rows = store.read(hooks, recordings, most=SCORED).rows
    x = torch.stack(rows, 1) if isinstance(sae, Crosscoder) else rows[0]
    target = rows[1] if isinstance(sae, Transcoder) else None
    scores = ReconstructionScores.of(sae, x if target is None else [(x, target)], hook=", ".join(hooks))
    return {
        "rows": len(x),
        "explained_variance": round(scores.explained_variance, 5),
        "l0": round(scores.l0, 3),
        "dead": round(scores.dead_fraction, 5),
    }


def _writers(settings: Settings) -> list[Callable[[AnyPath, int], Writer]]:
    config = {"dictionary": dict(settings.dictionary), "training": asdict(settings.training)}
    made: dict[str, Callable[[AnyPath, int], Writer]] = {
        "tensorboard": TensorBoard,
        "wandb": partial(Wandb, config=config),
    }
    return [made[name] for name in settings.run.log]
