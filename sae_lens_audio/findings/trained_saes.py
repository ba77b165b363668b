"""SAEs of a model's last two encoder blocks: the packaged ones, or small ones trained on packaged speech in minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.corpora.packaged import packaged_speech
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.features.phones.position_labels import label_names, label_positions
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.corpus_clips import clips_of
from hooked_whisper.findings.core.packing import SPARE, n_packed, pack
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.activations import CollectOptions, TensorActivations
from sae_lens_audio.activations.reading import RowReader
from sae_lens_audio.architectures import SAE, NormalizedSAE, Tied, TiedConfig, TopK, TopKConfig
from sae_lens_audio.evals.baselines import linear_bases
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.findings.packaged_saes import RESIDUAL, Origin, packaged_sae
from sae_lens_audio.training import Trainer, TrainingConfig

TIED_FEATURES = 200
TOPK_WIDTH, TOPK_K = 8, 32
TIED, TOPK = "tied L1", "TopK"
ARCHITECTURES = {TIED: "tied", TOPK: "topk"}  # of packaged SAEs
SAESource = Literal["packaged", "trained"]
MOST_BYTES = 512 << 20  # of activations, of all blocks together, in float16
ENCODED = 2  # windows that are encoded together
MOST_HELD_OUT = 20_000  # positions of held-out clips on which reconstruction is scored
FITTED_ROWS = 20_000  # of them for principal directions and means
CURVE_ROWS = 4_000  # held-out activations on which training is watched
POINTS = 5  # of the learning curve

TIED_TRAINING = TrainingConfig(
    steps=2000, batch=1024, optimizer="radam", lr=4e-3, epsilon=1e-5, decay_steps=2000, decay="cosine", scale="none",
    center=False,
)  # fmt: skip
TOPK_TRAINING = TrainingConfig(steps=500, batch=1024, lr=1e-3, warmup_steps=50, decay_steps=150, dead_after=100_000)


@dataclass(frozen=True, eq=False)
class TrainedBlock:
    """SAEs of the residual stream after one encoder block, with controls and held-out activations.

    Attributes:
        saes: by name; :data:`TIED` and :data:`TOPK`.
        origins: where each SAE is from.
        untrained: the tied form with its initial weights.
        bases: axes, principal and random directions, centered; from training activations.
        curves: explained variance of held-out activations at points of the training, of SAEs trained in this run.
        held_out: activations of held-out speech.
    """

    number: int
    hook: str
    saes: Mapping[str, SAE | NormalizedSAE]
    origins: Mapping[str, Origin]
    untrained: SAE
    bases: Mapping[str, LinearBasis]
    curves: Mapping[str, Float[np.ndarray, "point"]]
    held_out: Float[Tensor, "test d"]


@dataclass(frozen=True, eq=False)
class TrainedSAEs:
    """SAEs of several blocks, and the held-out clips (packed into windows) to evaluate them on.

    Attributes:
        n_rows: number of training activations of each SAE that was trained in this run.
        recordings, windows: number of training recordings, and of the windows that they were packed into.
        seconds: CPU time of encoding and training.
    """

    blocks: tuple[TrainedBlock, ...]
    clips: tuple[Clip, ...]
    n_rows: int
    recordings: int
    windows: int
    seconds: float


def blocks_of(model: HookedWhisper) -> tuple[int, ...]:
    """Return the last two encoder blocks: 2 and 3 of tiny, as published."""
    n = model.cfg.encoder.n_layers
    return tuple(range(max(0, n - 2), n))


def training_speech() -> list[Recording]:
    """Return the packaged speech by the training voices, of all kinds and languages.

    Raises:
        AudioError: the installation has no packaged speech.
    """
    return packaged_speech(split="train")


def held_out_clips(context: Context, trained_on: Sequence[Recording]) -> tuple[Clip, ...]:
    """Return the context's clips with phones whose texts and speakers are not in the training data."""
    texts, voices = {r.text for r in trained_on}, {r.speaker for r in trained_on}
    return tuple(
        u for u in context.labelled if u.text not in texts and u.alignment.speaker not in voices and has_phones(u)
    )


def has_phones(utterance: Clip) -> bool:
    return any(phone.label != SILENCE for phone in utterance.alignment.phones)


def saes_of(
    context: Context, held_out: Sequence[Clip], source: SAESource = "packaged", runs: Path | None = None
) -> TrainedSAEs:
    """Return the SAEs of the last two blocks, once per context.

    source: ``"packaged"`` uses the packaged SAEs that fit the checkpoint and trains the missing ones; ``"trained"``
        trains all.
    runs: folder of training runs, whose SAEs are used like packaged ones.
    """
    return context.once(_key(source, runs), lambda: _obtain(context, held_out, source, runs))


def saes_at_hand(
    context: Context, source: SAESource = "packaged", runs: Path | None = None
) -> tuple[dict[str, Mapping[str, SAE | NormalizedSAE]], dict[str, Mapping[str, Origin]]]:
    """Return the SAEs that exist without training, and where they are from, by hook point and name.

    They are those that :func:`saes_of` made for this context, or otherwise the packaged ones.
    """
    cached: TrainedSAEs | None = context.cached(_key(source, runs))
    if cached is not None:
        return {b.hook: b.saes for b in cached.blocks}, {b.hook: b.origins for b in cached.blocks}
    if source == "trained":
        return {}, {}
    hooks = [f"encoder.blocks.{n}{RESIDUAL}" for n in blocks_of(context.model)]
    packaged = {hook: _packaged(context, hook, runs) for hook in hooks}
    return (
        {hook: {name: sae for name, (sae, _) in saes.items()} for hook, saes in packaged.items()},
        {hook: {name: origin for name, (_, origin) in saes.items()} for hook, saes in packaged.items()},
    )


def packed_windows(context: Context, held_out: Sequence[Clip]) -> tuple[Clip, ...]:
    """Pack clips as for the scores."""
    return pack(held_out, _room(context.model))


def _key(source: SAESource, runs: Path | None) -> str:
    return f"{source} SAEs{'' if runs is None else f' or of {runs}'}"


def _obtain(context: Context, held_out: Sequence[Clip], source: SAESource, runs: Path | None) -> TrainedSAEs:
    began, model = time.process_time(), context.model
    numbers = blocks_of(model)
    hooks = [f"encoder.blocks.{n}{RESIDUAL}" for n in numbers]
    packaged = {hook: _packaged(context, hook, runs) if source == "packaged" else {} for hook in hooks}
    is_complete = all(len(saes) == len(ARCHITECTURES) for saes in packaged.values())
    rng = context.rng("order of windows")
    most = MOST_BYTES // (2 * len(hooks) * model.cfg.encoder.d_model)
    windows = _windows(
        model,
        clips_of(model, training_speech(), own_times=False).utterances,
        min(most, FITTED_ROWS) if is_complete else most,  # complete: only the controls are fitted
        rng,
    )
    n_windows, recordings = len(windows), n_packed(windows)
    rows = speech_rows(context, windows, hooks, "training speech")
    n_rows = len(rows[hooks[0]])
    del windows  # half an hour of samples
    tests = speech_rows(context, _windows(model, held_out, MOST_HELD_OUT, rng), hooks, "held-out speech")
    blocks = tuple(
        _block(context, number, hook, rows.pop(hook), tests[hook].float(), packaged[hook])
        for number, hook in zip(numbers, hooks, strict=True)
    )
    seconds = round(time.process_time() - began, 1)
    return TrainedSAEs(blocks, packed_windows(context, held_out), n_rows, recordings, n_windows, seconds)


PackagedByName = dict[str, tuple[SAE | NormalizedSAE, Origin]]


def _packaged(context: Context, hook: str, runs: Path | None) -> PackagedByName:
    saes = {name: packaged_sae(context, hook, architecture, runs) for name, architecture in ARCHITECTURES.items()}
    return {name: sae for name, sae in saes.items() if sae is not None}


def _windows(model: HookedWhisper, clips: Sequence[Clip], most: int, rng: np.random.Generator) -> tuple[Clip, ...]:
    """Pack clips into windows, in random order, up to ``most`` positions."""
    packed = pack(clips, _room(model))
    return within(model, [packed[i] for i in rng.permutation(len(packed))], most)


def _room(model: HookedWhisper) -> float:
    return model.time.duration - SPARE


def _block(
    context: Context,
    number: int,
    hook: str,
    rows: Float[Tensor, "row d"],
    held_out: Float[Tensor, "test d"],
    packaged: PackagedByName,
) -> TrainedBlock:
    """Return the packaged SAEs of a block, with those trained that are missing."""
    d, seed = rows.shape[1], context.seed
    saes = {name: sae for name, (sae, _) in packaged.items()}
    origins = {name: origin for name, (_, origin) in packaged.items()}
    n_tied = saes[TIED].n_features if TIED in saes else TIED_FEATURES
    new: dict[str, tuple[SAE, TrainingConfig]] = {}
    if TIED not in saes:
        new[TIED] = (Tied(TiedConfig(d, n_tied), seed=seed), TIED_TRAINING)
    if TOPK not in saes:
        new[TOPK] = (TopK(TopKConfig(d, TOPK_WIDTH * d, k=min(TOPK_K, d)), seed=seed), TOPK_TRAINING)
    source, watched, curves = TensorActivations({hook: rows}), evenly(held_out, CURVE_ROWS), {}
    for name, (sae, config) in new.items():
        config = replace(config, seed=seed, batch=min(config.batch, len(rows)))
        trained, curves[name] = fit(context, sae, source, config, watched, f"{name}, block {number}")
        saes[name], origins[name] = trained.to(context.model.device), Origin(steps=config.steps)
    return TrainedBlock(
        number,
        hook,
        {name: saes[name] for name in ARCHITECTURES},
        {name: origins[name] for name in ARCHITECTURES},
        Tied(TiedConfig(d, n_tied), seed=seed).eval().to(context.model.device),
        linear_bases(evenly(rows, FITTED_ROWS).float(), seed),
        curves,
        held_out,
    )


def fit(
    context: Context,
    sae: SAE,
    source: TensorActivations,
    config: TrainingConfig,
    watched: Float[Tensor, "row d"],
    what: str,
) -> tuple[SAE, Float[np.ndarray, "point"]]:
    """Train an SAE; also return the explained variance of ``watched`` at :data:`POINTS` evenly spaced steps."""
    points = {-(-config.steps * (k + 1) // POINTS) for k in range(POINTS)}
    curve: list[float] = []
    with Trainer(sae, source, config, device=context.model.device) as trainer:
        for _ in context.track(range(config.steps), f"training {what}"):
            if trainer.step().number in points:
                curve.append(ReconstructionScores.of(trainer.finished(), watched).explained_variance)
        return trainer.finished(), np.array(curve)


@torch.no_grad()
def speech_rows(
    context: Context, windows: Sequence[Clip], hooks: Sequence[str], what: str
) -> dict[str, Float[Tensor, "row d"]]:
    """Return activations within phones except silence, as float16 on the CPU, in the order of the windows.

    Raises:
        HookedWhisperError: an activation is not finite, or too large for float16.
    """
    model = context.model
    reader = RowReader(model, list(hooks), CollectOptions(dtype="float16", batch=ENCODED))
    masks = [torch.from_numpy(speech_positions(model, window)) for window in windows]
    rows = {
        hook: torch.empty(int(sum(int(m.sum()) for m in masks)), width, dtype=torch.float16)
        for hook, width in zip(reader.hooks, reader.widths, strict=True)
    }
    corpus = [Recording(str(i), window.samples, speaker="") for i, window in enumerate(windows)]
    start = 0
    for block, mask in _blocks(context, reader, corpus, masks, what):
        stop = start + int(mask.sum())
        for hook, x in zip(reader.hooks, block, strict=True):
            rows[hook][start:stop] = x[mask]
        start = stop
    return rows


def _blocks(
    context: Context,
    reader: RowReader,
    corpus: Sequence[Recording],
    masks: Sequence[Bool[Tensor, "position"]],
    what: str,
) -> Iterator[tuple[tuple[Tensor, ...], Bool[Tensor, "row"]]]:
    """Yield the rows of each batch of windows, and the mask of speech among them."""

    def failed(failure: object) -> None:
        raise AssertionError(f"samples in memory cannot fail: {failure}")

    n_batches = -(-len(corpus) // reader.options.batch)
    for batch in context.track(reader.batches(corpus, failed=failed), what, n_batches):
        yield batch.chunk.rows, torch.cat([masks[window.recording] for window in batch.windows])


def speech_positions(model: HookedWhisper, window: Clip) -> Bool[np.ndarray, "position"]:
    """Return the mask of a clip's positions within phones other than silence."""
    names = [name for name in label_names([window.alignment]) if name != SILENCE]
    n = n_positions(model, window)
    return label_positions(window.alignment, n, names, model.time).ids >= 0


def n_positions(model: HookedWhisper, window: Clip) -> int:
    return model.time.n_positions(min(len(window.samples) / model.time.sample_rate, model.time.duration))


def within(model: HookedWhisper, windows: Sequence[Clip], most: int) -> tuple[Clip, ...]:
    """Return the first windows with at most ``most`` positions together, but at least one."""
    ends = np.cumsum([n_positions(model, window) for window in windows])
    return tuple(windows[: max(1, int((ends <= most).sum()))])


def evenly(rows: Float[Tensor, "row d"], n: int) -> Float[Tensor, "part d"]:
    """Return ``n`` evenly spaced rows."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]
