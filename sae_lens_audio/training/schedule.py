"""Schedules of the learning rate and of the sparsity coefficient."""

from __future__ import annotations

import math

from sae_lens_audio.training.config import TrainingConfig


def lr_factor(config: TrainingConfig, step: int) -> float:
    """Return the factor of ``lr`` at a step, counted from 0: warm-up, then 1, then decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    left = config.steps - step
    if left > config.decay_steps:
        return 1.0
    done = 1 - left / config.decay_steps
    shape = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.lr_end + (1 - config.lr_end) * shape


def sparsity_factor(config: TrainingConfig, step: int) -> float:
    """Return the factor of the sparsity term at a step, counted from 0."""
    return 1.0 if step >= config.sparsity_warmup_steps else (step + 1) / config.sparsity_warmup_steps
