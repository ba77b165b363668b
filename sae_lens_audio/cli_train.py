"""``sae-lens-audio train``: a dictionary from a settings file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hooked_whisper.cli_model import device_of, positive

if TYPE_CHECKING:
    from hooked_whisper.storage import AnyPath
    from sae_lens_audio.activations import Blocks, Store
    from sae_lens_audio.architectures import Dictionary
    from sae_lens_audio.formats import Metadata
    from sae_lens_audio.settings import ActivationSettings, Settings

SCORED = 50_000  # held-out rows


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", metavar="CONFIG.toml", help="what to train on what, see the README")
    parser.add_argument("--out", metavar="DIR", help="folder, in place of the file's")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... in place of the file's (default: cuda if there)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads, in place of the file's")
    parser.add_argument("--verbose", "-v", action="store_true", help="tracebacks and details on stderr")


def run_train(parsed: argparse.Namespace) -> int:
    """Train, or go on; the dictionary is in ``sae/`` of the folder, its held-out scores in its metadata."""
    import torch

    from hooked_whisper.storage import as_path
    from sae_lens_audio.settings import read_settings
    from sae_lens_audio.training import Trainer, torchrun_ranks

    settings = read_settings(parsed.settings)
    threads = parsed.threads or settings.run.threads
    if threads:
        torch.set_num_threads(threads)
    device = device_of(parsed.device or settings.run.device)
    folder = as_path(parsed.out or settings.run.folder)
    with torchrun_ranks(device) as ranks:
        blocks, store, test = _source(settings.activations, device)
        metadata = describe(settings, blocks, store)
        trainer = Trainer(
            settings.make_dictionary(blocks.widths),
            blocks,
            settings.training,
            folder,
            metadata=metadata,
            device=device,
            ranks=ranks,
            writers=_writers(settings),
            log_every=settings.run.log_every,
        )
        if trainer.number:
            print(f"going on after step {trainer.number}", file=sys.stderr)
        try:
            finished = trainer.fit(progress=sys.stderr.isatty(), checkpoint_s=settings.run.checkpoint_s)
        except KeyboardInterrupt:
            print(f"stopped after step {trainer.number}; the same command goes on from there", file=sys.stderr)
            raise
        if ranks is None or ranks.rank == 0:
            _finish(finished, trainer, metadata, store, test, settings.activations.names)
    return 0


def _finish(
    sae: Dictionary, trainer: Any, metadata: Metadata, store: Store | None, test: Any, hooks: tuple[str, ...]
) -> None:
    """Scores on speakers that were left out go into the metadata."""
    from sae_lens_audio.formats import save_sae

    folder = trainer.folder / "sae"
    if store is not None and test is not None:
        scores = held_out_scores(sae, store, hooks, test)
        metadata = replace(metadata, extra={**metadata.extra, "held_out": scores})
        save_sae(sae, folder, metadata, trainer.dead.log_rates.float())
        print(
            f"held-out speakers: explained variance {scores['explained_variance']:.3f}, L0 {scores['l0']:.1f} of "
            f"{sae.n_features}, dead {scores['dead']:.1%} ({scores['rows']} rows)"
        )
    print(f"open with sae_lens_audio.load_sae({str(folder)!r})")


def held_out_scores(sae: Dictionary, store: Store, hooks: tuple[str, ...], recordings: Any) -> dict[str, Any]:
    """Explained variance, L0 and the share of features that never fire, on rows of some recordings."""
    import torch

    from sae_lens_audio.architectures import Crosscoder, Transcoder
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


def _source(settings: ActivationSettings, device: Any) -> tuple[Blocks, Store | None, Any]:
    """Rows to train on; the store and places of recordings that are left out, where there are any."""
    from sae_lens_audio.activations import HarvestOptions, StoredBlocks, StreamedBlocks, open_store

    if settings.store:
        store = open_store(settings.store)
        speakers = {one.speaker for one in store.recordings if one.rows}
        split = store.split_by_speaker(1 - settings.held_out) if settings.held_out and len(speakers) > 1 else None
        train = None if split is None else split.train
        blocks = StoredBlocks(store, settings.names, train, settings.shards_together)
        return blocks, store, None if split is None else split.test
    from hooked_whisper.cli_corpus import corpus_of
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
    checked: Any = HarvestOptions  # texts are checked there
    options = checked(
        dtype=settings.dtype,
        batch=settings.batch,
        padding=settings.padding,
        margin=settings.margin,
    )
    streamed = StreamedBlocks(model, corpus, list(settings.names), settings.recordings_per_block, options)
    return streamed, None, None


def describe(settings: Settings, blocks: Blocks, store: Store | None) -> Metadata:
    """Where the dictionary belongs, and what it is trained on."""
    from sae_lens_audio.architectures import ARCHITECTURES, Transcoder
    from sae_lens_audio.formats import Metadata

    header = blocks.describe()["header"] if store is None else store.header
    names, transcodes = blocks.hooks, issubclass(ARCHITECTURES[settings.dictionary["architecture"]], Transcoder)
    several = len(names) > 1 and not transcodes
    corpus = settings.activations.audio or (settings.activations.store if store is not None else "spoken world")
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


def _writers(settings: Settings) -> list[Callable[[AnyPath, int], Any]]:
    from sae_lens_audio.training.log import TensorBoard, Wandb

    config = {"dictionary": dict(settings.dictionary), "training": asdict(settings.training)}
    made: dict[str, Callable[[AnyPath, int], Any]] = {
        "tensorboard": TensorBoard,
        "wandb": partial(Wandb, config=config),
    }
    return [made[name] for name in settings.run.log]
