"""One small SAE of every architecture, and inputs for it."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_lens_audio.architectures import (
    SAE,
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
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

D, F, N = 5, 9, 7


def all_of_them() -> list[SAE]:
    return [
        Standard(StandardConfig(D, F, l1_coefficient=0.3)),
        Tied(TiedConfig(D, F, reconstruction_alpha=10.0)),
        TopK(TopKConfig(D, F, k=3)),
        AbsTopK(TopKConfig(D, F, k=3)),
        BatchTopK(BatchTopKConfig(D, F, k=2.5)),
        Matryoshka(MatryoshkaConfig(D, F, k=3, widths=(2, 5, F))),
        JumpReLU(JumpReLUConfig(D, F, l0_coefficient=0.2, bandwidth=0.5, initial_threshold=0.4)),
        Gated(GatedConfig(D, F, l1_coefficient=0.3)),
        Transcoder(TranscoderConfig(D, F, d_out=4, skip=True, l1_coefficient=0.3)),
        TopKTranscoder(TopKTranscoderConfig(D, F, d_out=4, k=3)),
        JumpReLUTranscoder(JumpReLUTranscoderConfig(D, F, d_out=4, bandwidth=0.5, initial_threshold=0.4)),
        Crosscoder(CrosscoderConfig(D, F, n_blocks=2, l1_coefficient=0.3)),
    ]


ALL = {type(sae).architecture: sae for sae in all_of_them()}


def filled(sae: SAE, seed: int = 0) -> SAE:
    """Fill all weights with random numbers in float64, so that none is zero; thresholds are positive."""
    generator = torch.Generator().manual_seed(seed)
    sae = sae.double()
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name == "threshold":
                parameter.abs_()
        if isinstance(sae, BatchTopK):
            sae.topk_threshold.fill_(0.5)
    return sae


def inputs(sae: SAE, rows: int = N, seed: int = 5) -> Tensor:
    shape = (rows, 2, D) if isinstance(sae, Crosscoder) else (rows, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(sae: SAE, x: Tensor, dead: Tensor | None = None):
    if isinstance(sae, Transcoder):
        target = torch.randn(len(x), 4, generator=torch.Generator().manual_seed(8), dtype=x.dtype)
        return sae.loss(x, target, dead), target
    return sae.loss(x, dead), x
