"""A small model, and one SAE of every kind to attach to it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.features.bases import random_orthonormal
from hooked_whisper.patching import LogitDifference
from sae_lens_audio.architectures import (
    SAE,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
    NormalizedSAE,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from tests.findings.worlds import small_model
from tests.sae.saes import filled

D, F = 32, 48
HOOK = "encoder.blocks.0.hook_resid_post"
ACTS = f"{HOOK}.hook_sae_acts_post"
MLP_IN, MLP_OUT = "decoder.blocks.1.hook_mlp_in", "decoder.blocks.1.hook_mlp_out"
METRIC = LogitDifference(100, 200, 3)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def model() -> HookedWhisper:
    """Random weights, large enough that an edit in the encoder moves the logits."""
    fresh = small_model(0)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(2)
    return fresh


def mels(n: int = 2) -> Tensor:
    return rand(n, 80, 120)


def tokens(n: int = 2) -> Tensor:
    return torch.randint(0, 50000, (n, 5), generator=torch.Generator().manual_seed(1))


def filled_sae(make: type[SAE], config: object) -> SAE:
    return filled(make(config), seed=3).float().requires_grad_(False)  # type: ignore[arg-type]


TOPK = filled_sae(TopK, TopKConfig(D, F, k=5))
SAES: dict[str, object] = {
    "standard": filled_sae(Standard, StandardConfig(D, F)),
    "tied": filled_sae(Tied, TiedConfig(D, F)),
    "topk": TOPK,
    "abstopk": filled_sae(AbsTopK, TopKConfig(D, F, k=5)),
    "batchtopk": filled_sae(BatchTopK, BatchTopKConfig(D, F, k=5)),
    "matryoshka": filled_sae(Matryoshka, MatryoshkaConfig(D, F, k=5, widths=(8, F))),
    "jumprelu": filled_sae(JumpReLU, JumpReLUConfig(D, F)),
    "gated": filled_sae(Gated, GatedConfig(D, F)),
    "layer norm": NormalizedSAE(filled_sae(TopK, TopKConfig(D, F, k=5)), "layer_norm"),
    "constant norm": NormalizedSAE(filled_sae(Standard, StandardConfig(D, F)), "constant_norm_rescale"),
    "linear basis": random_orthonormal(D, 20),
}
TRANSCODERS = [
    filled_sae(Transcoder, TranscoderConfig(D, F, d_out=D, skip=True)),
    filled_sae(TopKTranscoder, TopKTranscoderConfig(D, F, d_out=D, k=5)),
    filled_sae(JumpReLUTranscoder, JumpReLUTranscoderConfig(D, F, d_out=D, skip=True)),
]


def reconstructed(sae: object, x: Tensor) -> Tensor:
    return sae(x) if isinstance(sae, torch.nn.Module) else sae.decode(sae.encode(x))  # type: ignore[attr-defined]
