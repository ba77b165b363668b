"""Streams of activations for tests of a scan's parts, and slow reference results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hooked_whisper.features.scan.priority import priorities
from hooked_whisper.features.scan.state import WindowFeatures


@dataclass(frozen=True)
class Item:
    """One activation of one feature."""

    value: float
    recording: int
    position: int
    priority: int


def stream(lengths: Sequence[int], n_features: int, seed: int = 0, levels: int = 0) -> list[WindowFeatures]:
    """Recordings of given lengths, one window each. ``levels`` limits the number of different values, to make ties."""
    generator = torch.Generator().manual_seed(seed)
    windows = []
    for recording, n in enumerate(lengths):
        if levels:
            x = torch.randint(0, levels, (n, n_features), generator=generator).float()
        else:
            x = torch.randn(n, n_features, generator=generator).exp() - 1
        windows.append(WindowFeatures(x, recording, 0, priorities(f"r{recording}", range(n), seed)))
    return windows


def items(windows: Sequence[WindowFeatures], feature: int) -> list[Item]:
    return [
        Item(float(s.x[row, feature]), s.recording, s.first + row, int(s.priority[row]))
        for s in windows
        for row in range(len(s.x))
    ]


def largest(window: WindowFeatures) -> Tensor:
    return window.x.amax(0)
