"""Encoder activations for the findings on speech and language, from one encoder pass per clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.activations import ActivationStream
from hooked_whisper.corpora import Recording
from hooked_whisper.findings.core.context import ENCODER_BATCH
from hooked_whisper.hooked import HookedWhisper

POSITIONS = 20  # positions per clip; more add little, because neighboring positions are similar
LOUD = 30.0  # positions more than this many dB below a clip's loudest position count as pauses

EARLY, OUTPUT = "encoder.blocks.0.mlp.hook_pre", "encoder.hook_out"

Samples = Float[np.ndarray, "_"]  # clips differ in length


@dataclass(frozen=True, eq=False)
class EncoderReadings:
    """Activations of speech clips, then of other sounds, without padding and without pauses of the speech.

    Attributes:
        pooled: residual stream after each block, averaged over a clip's positions.
        positions: residual stream after each block at :data:`POSITIONS` evenly spaced positions of each clip.
        early: ``encoder.blocks.0.mlp.hook_pre`` at these positions.
        mel: log-mel frames of these positions (two per position).
        pooled_mel: mean and standard deviation of the log-mel over a clip's positions.
        middle: residual stream after ``middle_block`` at every position, speech clips only.
        encoded: encoder output at every position, speech clips only.
        middle_block: index of the middle block.
    """

    pooled: Float[np.ndarray, "block clip d_model"]
    positions: Float[np.ndarray, "block clip position d_model"]
    early: Float[np.ndarray, "clip position d_mlp"]
    mel: Float[np.ndarray, "clip position feature"]
    pooled_mel: Float[np.ndarray, "clip feature"]
    middle: Float[Tensor, "speech n_ctx d_model"]
    encoded: Float[Tensor, "speech n_ctx d_model"]
    middle_block: int


def middle_block(model: HookedWhisper) -> int:
    """Return the index of the middle encoder block."""
    return model.cfg.encoder.n_layers // 2


def loud_positions(audio: Samples, model: HookedWhisper) -> Int[np.ndarray, "position"]:
    """Return the encoder positions of a clip within :data:`LOUD` dB of its loudest position."""
    step = model.time.samples_per_position
    n = min(len(audio) // step, model.time.n_ctx)
    power = np.square(audio[: n * step], dtype=float).reshape(n, step).mean(1)
    return np.flatnonzero(power >= power.max() * 10 ** (-LOUD / 10))


@torch.no_grad()
def read_encoder(
    model: HookedWhisper, speech: Sequence[Samples], sounds: Sequence[Samples], steps: Iterator[int]
) -> EncoderReadings:
    """Encode every clip once. ``steps`` is advanced once per clip, for a progress bar."""
    clips = [*speech, *sounds]
    step = model.time.samples_per_position
    clip_positions = [loud_positions(clip, model) for clip in speech]
    clip_positions += [np.arange(min(len(clip) // step, model.time.n_ctx)) for clip in sounds]
    sampled_positions = [
        positions[np.linspace(0, len(positions) - 1, POSITIONS).round().astype(int)] for positions in clip_positions
    ]
    n_blocks, halfway = model.cfg.encoder.n_layers, middle_block(model)
    blocks = [f"encoder.blocks.{block}.hook_resid_post" for block in range(n_blocks)]
    pooled: list[list[np.ndarray]] = [[] for _ in range(n_blocks)]
    at_positions: list[list[np.ndarray]] = [[] for _ in range(n_blocks)]
    early: list[np.ndarray] = []
    middle: list[Tensor] = []
    encoded: list[Tensor] = []
    mels: list[np.ndarray] = []
    pooled_mels: list[np.ndarray] = []

    def collect(name: str, rows: Float[Tensor, "row feature"]) -> None:
        x = rows.unflatten(0, (-1, model.time.n_ctx))
        for clip, row in enumerate(x, start=len(mels)):
            if name == EARLY:
                early.append(row[sampled_positions[clip]].float().cpu().numpy())
                continue
            if name == OUTPUT:
                encoded.extend([row.clone()] if clip < len(speech) else [])
                continue
            block = blocks.index(name)
            pooled[block].append(row[clip_positions[clip]].float().mean(0).cpu().numpy())
            at_positions[block].append(row[sampled_positions[clip]].float().cpu().numpy())
            if block == halfway and clip < len(speech):
                middle.append(row.clone())

    # Every block of every position would take gigabytes for a batch of large-v3, so rows are reduced as they come.
    stream = ActivationStream(model, [*blocks, EARLY, OUTPUT], batch=ENCODER_BATCH, padding="keep")
    corpus = [Recording(f"clip {i}", clip[: model.time.n_samples]) for i, clip in enumerate(clips)]
    for batch in stream.batches(corpus, on_rows=collect):
        for row in batch.mel.float().cpu().numpy():
            clip = len(mels)
            pairs = row.reshape(len(row), -1, model.time.stride).transpose(1, 0, 2).reshape(model.time.n_ctx, -1)
            mels.append(pairs[sampled_positions[clip]])
            frames = row.reshape(len(row), -1, model.time.stride)[:, clip_positions[clip]].reshape(len(row), -1)
            pooled_mels.append(np.concatenate([frames.mean(1), frames.std(1)]))
            next(steps, None)
    return EncoderReadings(
        np.array(pooled),
        np.array(at_positions),
        np.array(early),
        np.array(mels),
        np.array(pooled_mels),
        torch.stack(middle),
        torch.stack(encoded),
        halfway,
    )
