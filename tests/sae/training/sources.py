"""Rows with features to learn, and short runs."""

from __future__ import annotations

import torch
from torch import Tensor

from hooked_whisper._support.storage import Place
from sae_lens_audio import TopK, TopKConfig
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import SAE
from sae_lens_audio.training import Trainer, TrainingConfig

D, F = 12, 40


def mixtures(n: int = 1200, d: int = D, seed: int = 0, n_true: int = 24, active: int = 3) -> Tensor:
    """Sparse sums of unit directions about a mean, which an SAE can explain."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(n_true, d, generator=torch.Generator().manual_seed(99))
    true = 5 * true / true.norm(dim=1, keepdim=True)
    latents = torch.rand(n, n_true, generator=generator).topk(active).indices
    amounts = torch.zeros(n, n_true).scatter(1, latents, 0.5 + torch.rand(n, active, generator=generator))
    return amounts @ true + 3 + 0.05 * torch.randn(n, d, generator=generator)


def config(**changes) -> TrainingConfig:
    return TrainingConfig(**({"steps": 30, "batch": 64, "lr": 1e-2, "dead_after": 1000} | changes))


def trainer(folder: Place | None = None, sae: SAE | None = None, **changes) -> Trainer:
    return Trainer(
        sae or TopK(TopKConfig(D, F, k=3)), TensorActivations(mixtures()), config(**changes), folder, log_every=5
    )


def fit_until_interrupted(run: Trainer, steps: int) -> None:
    """Call ``fit`` and stop it as Ctrl-C would, after some steps."""
    step, left = run.step, iter(range(steps))

    def next_step():
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step()

    run.step = next_step  # type: ignore[method-assign]
    try:
        run.fit(progress=False)
    except KeyboardInterrupt:
        return
    raise AssertionError("the run finished before it was interrupted")
