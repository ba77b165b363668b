"""Attention masks of F2: a window around each position, and the same number of keys at random positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from hooked_whisper.interventions.masks import HeadWindows


def band(n: int, k: int, n_rows: Sequence[int], device: torch.device) -> Bool[Tensor, "clip 1 query key"]:
    """Return a band of half-width ``k`` in each clip's first ``n_rows`` rows. The other rows attend to all
    positions."""
    positions = torch.arange(n, device=device)
    return HeadWindows((k,), tuple(n_rows))(positions, positions)


def scrambled_band(
    n: int, k: int, n_speech: Sequence[int], rng: np.random.Generator, device: torch.device
) -> Bool[Tensor, "clip 1 query key"]:
    """Return the band with its keys at random positions.

    Each row keeps its number of keys within the clip and within the padding, and still attends to itself.
    """
    positions = torch.arange(n)
    near = (positions[:, None] - positions[None, :]).abs() <= k
    masks = []
    for speech in n_speech:
        order = np.concatenate([rng.permutation(speech), speech + rng.permutation(n - speech)])
        mask = near[:, order].clone()
        moved_to = torch.empty(n, dtype=torch.long)
        moved_to[torch.from_numpy(order)] = positions
        blind = ~mask[positions, positions]  # rows that no longer see themselves: swap that key with their former one
        mask[positions[blind], moved_to[blind]] = False
        mask[positions[blind], positions[blind]] = True
        masks.append(mask)
    return torch.stack(masks)[:, None].to(device)
