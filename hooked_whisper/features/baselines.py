"""Baselines for features: labels shifted in time, and the bands of the log-mel.

Random and principal directions are in :mod:`hooked_whisper.features.bases`. The baseline of an untrained network is the
same evaluation on a model with random weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import AudioError
from hooked_whisper.hooked import HookedWhisper

SMALLEST_SHIFT = 0.1  # of the labeled positions of a clip


def shifted_labels(
    ids: Sequence[Int[np.ndarray, "_position"]], rng: np.random.Generator
) -> list[Int[np.ndarray, "_position"]]:
    """Shift the labels of every utterance circularly by a random number of positions, at least 10 % of those labeled.

    This is the control for measures whose rows are not independent: the shift keeps the frequency of each label and the
    length of its runs, except the one that wraps around; a permutation would break up the runs. Unlabeled positions
    stay where they are. Utterances with fewer than two labeled positions are unchanged.
    """
    return [_shifted(labels, rng) for labels in ids]


def _shifted(ids: Int[np.ndarray, "position"], rng: np.random.Generator) -> Int[np.ndarray, "position"]:
    labeled = ids >= 0
    n = int(labeled.sum())
    if n < 2:
        return ids.copy()
    least = math.ceil(SMALLEST_SHIFT * n)
    shifted = ids.copy()
    shifted[labeled] = np.roll(ids[labeled], int(rng.integers(least, n - least, endpoint=True)))
    return shifted


@dataclass(frozen=True)
class MelBands:
    """The bands of the log-mel at encoder positions as features: the selectivity of the input without a network.

    Position i is the mean of the frames ``2 i - 1``, ``2 i``, ``2 i + 1`` (20 ms) with weights 1/4, 1/2, 1/4.
    """

    n_features: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"mel {i}" for i in range(self.n_features))

    def encode(self, mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch position mel"]:
        """Average frames to positions.

        Raises:
            AudioError: the number of bands differs, or the number of frames is odd.
        """
        if mel.shape[-2] != self.n_features or mel.shape[-1] % 2:
            raise AudioError(f"expected {self.n_features} mel bands and an even number of frames, got {mel.shape[-2:]}")
        before = torch.cat([mel[..., :1], mel[..., 1:-1:2]], dim=-1)
        return (before / 4 + mel[..., ::2] / 2 + mel[..., 1::2] / 4).transpose(-1, -2)


def mel_bands(model: HookedWhisper) -> MelBands:
    """Return the basis of mel bands for a model's ``encoder.hook_mel``."""
    return MelBands(model.cfg.encoder.n_mels)
