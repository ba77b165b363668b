"""A small random model, and a pair of runs that differ in a span of audio."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.patching import CleanCorruptPair, LogitDifference, RunInputs, window_spans

N_POSITIONS = 24


def small_model(n_encoder_layers: int, noise: float, dtype: torch.dtype = torch.float32) -> HookedWhisper:
    """A model whose weights are the initial ones plus normal noise."""
    config = WhisperConfig(
        EncoderConfig(n_mels=80, n_ctx=N_POSITIONS, d_model=16, n_heads=2, n_layers=n_encoder_layers, d_mlp=32),
        DecoderConfig(n_vocab=60, n_ctx=12, d_model=16, n_heads=2, n_layers=2, d_mlp=32),
    )
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = HookedWhisper(config).to(dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data + noise * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


@pytest.fixture(scope="package")
def model() -> HookedWhisper:
    return small_model(2, 0.15)


@pytest.fixture(scope="package")
def pair() -> CleanCorruptPair:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(1, 80, 2 * N_POSITIONS, generator=generator)
    corrupt = clean.clone()
    corrupt[:, :, 16:28] = torch.randn(1, 80, 12, generator=generator)
    tokens = torch.randint(0, 60, (1, 6), generator=generator)
    metric = LogitDifference(answer=7, foil=9, index=5)
    spans = window_spans(N_POSITIONS, 8)
    return CleanCorruptPair(RunInputs(tokens, clean), RunInputs(tokens, corrupt), metric, spans, "one")
