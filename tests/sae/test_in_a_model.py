"""Dictionaries where hooked_whisper takes a basis: their features can be patched one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.interventions import Inputs, LogitDifference, make_grid, run_patches, subspaces_of
from sae_lens_audio import BatchTopK, BatchTopKConfig, Dictionary, Standard, StandardConfig, Tied, TiedConfig


@pytest.mark.parametrize(
    "sae",
    [Standard(StandardConfig(16, 24)), Tied(TiedConfig(16, 24)), BatchTopK(BatchTopKConfig(16, 24, k=4))],
    ids=lambda sae: sae.architecture,
)
def test_features_of_a_dictionary_are_patched(sae: Dictionary) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32}
        model = HookedWhisper(
            WhisperConfig(EncoderConfig(n_mels=80, n_ctx=24, **shape), DecoderConfig(n_vocab=60, n_ctx=12, **shape))
        )
    generator = torch.Generator().manual_seed(1)
    mels = torch.randn(2, 1, 80, 48, generator=generator)
    tokens = torch.randint(0, 60, (1, 5), generator=generator)
    base, source = (Inputs(tokens, mel=mel) for mel in mels)
    if isinstance(sae, BatchTopK):
        sae.calibrate_([torch.randn(64, 16, generator=generator)])
    grid = make_grid(model, "resid_post", "decoder", blocks=[1], subspaces=subspaces_of(sae))
    assert grid.shape == (1, 24) and grid.axes[-1].labels == sae.labels
    found = run_patches(model, grid.patches, base, source, LogitDifference(3, 4, 4))
    changed = np.abs(found.values.detach().numpy() - found.base)
    assert np.isfinite(changed).all() and changed.max() > 1e-4
