"""Encode recordings of the packaged speech."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Recording
from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.hooked import HookedWhisper


@torch.no_grad()
def encode_recordings(
    context: Context, model: HookedWhisper, recordings: Sequence[Recording], label: str
) -> Float[Tensor, "recording position d_model"]:
    """Return the model's encoder output for each recording. The progress bar is called ``label``."""
    batches = [recordings[k : k + ENCODER_BATCH] for k in range(0, len(recordings), ENCODER_BATCH)]
    return torch.cat(
        [
            model.embed_audio(model.to_mel([recording.audio().numpy() for recording in batch]))
            for batch in context.track(batches, label)
        ]
    )
