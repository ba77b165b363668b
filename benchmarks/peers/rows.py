"""Rows to train on, synthetic or from a file, with the same order and scale for every implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from sae_lens_audio.activations import open_store

TRUE_FEATURES, ACTIVE = 2048, 24


def synthetic(n: int, d: int, seed: int) -> Tensor:
    """Return rows with the structure that an SAE assumes: each is the sum of 24 of 2,048 directions, some far more
    frequent than others, with weights between 0.5 and 4.5, plus a mean and a little noise.
    """
    # not a seed that SAEs use: with an equal seed they would be initialized at the true directions
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    directions = F.normalize(torch.randn(TRUE_FEATURES, d, generator=generator), dim=1)
    popularity = torch.arange(1, TRUE_FEATURES + 1).float().rsqrt()
    mean = 0.3 * torch.randn(d, generator=generator)
    rows = torch.empty(n, d)
    for part in rows.split(4096):
        active = torch.multinomial(popularity.expand(len(part), -1), ACTIVE, generator=generator)
        amounts = 0.5 + 4 * torch.rand(len(part), ACTIVE, generator=generator)
        part.copy_(F.embedding_bag(active, directions, per_sample_weights=amounts, mode="sum"))
    return rows + mean + 0.05 * torch.randn(n, d, generator=generator)


def from_file(path: Path, key: str | None, n: int, seed: int) -> Tensor:
    """Return at most ``n`` rows, in random order, of a store, or of an array ``[row, d]`` in a .npy or .safetensors
    file.

    key: the hook point or tensor, if there are several.
    """
    if path.is_dir():
        store = open_store(path)
        rows = store.read(_only(key, store.hooks, path), most=n, seed=seed).rows[0]
    elif path.suffix == ".npy":
        rows = torch.from_numpy(np.load(path).astype(np.float32))
    else:
        with safe_open(path, "pt") as file:
            rows = file.get_tensor(_only(key, list(file.keys()), path)).float()
    if rows.dim() != 2 or not rows.isfinite().all():
        raise HookedWhisperError(f"{path}: activations are finite rows [row, d], not {list(rows.shape)}")
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n]]


def _only(key: str | None, there: Sequence[str], path: Path) -> str:
    if key is None and len(there) != 1:
        raise HookedWhisperError(f"{path} has {', '.join(there)}: name one with --key")
    return there[0] if key is None else key


def scaled(rows: Tensor) -> Tensor:
    """Scale rows so that their mean squared distance from the mean is their width."""
    spread = (rows - rows.mean(0)).square().sum(1).mean()
    return rows * (rows.shape[1] / spread).sqrt()
