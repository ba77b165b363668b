"""A random model beside the same weights in openai-whisper, and a clip."""

from __future__ import annotations

import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.loading import load_into, resolve


@pytest.fixture(scope="module")
def pair() -> tuple[Whisper, HookedWhisper]:
    """A random multilingual model in the 30 s geometry, with weights large enough to prefer some tokens strongly."""
    generator = torch.Generator().manual_seed(3)
    theirs = Whisper(ModelDimensions(80, 1500, 32, 2, 2, 51865, 96, 32, 2, 3)).eval()
    for name, p in theirs.named_parameters():
        # large positions keep the model from repeating one token for ever
        std = 3.0 if name == "decoder.positional_embedding" else 0.3 if p.dim() > 1 else 0.1
        center = 1.0 if name.endswith("ln.weight") or "ln_post.weight" in name else 0.0
        p.data = center + std * torch.randn(p.shape, generator=generator)
    checkpoint = resolve(theirs)
    ours = HookedWhisper(checkpoint.config)
    load_into(ours, checkpoint)
    return theirs, ours


@pytest.fixture(scope="module")
def audio() -> torch.Tensor:
    t = torch.arange(16000 * 4) / 16000
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.sin(2 * torch.pi * 220 * t * (1 + 0.2 * t)) + 0.05 * torch.randn(t.shape, generator=generator)
