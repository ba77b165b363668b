"""Factors of the learning rate and of the penalty, by step."""

from __future__ import annotations

import math

from sae_lens_audio.training.config import TrainingConfig


def lr_factor(config: TrainingConfig, step: int) -> float:
    """Of ``lr`` at this step, counted from 0: rises over the warm-up, falls over the decay, 1 between."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    left = config.steps - step
    if left > config.decay_steps:
        return 1.0
    done = 1 - left / config.decay_steps
    shape = 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.lr_end + (1 - config.lr_end) * shape


def sparsity_factor(config: TrainingConfig, step: int) -> float:
    """Of the penalty at this step."""
    return 1.0 if step >= config.sparsity_warmup_steps else (step + 1) / config.sparsity_warmup_steps
