"""What features must beat: labels shifted in time, and the bands of the log-mel. Random and principal directions are
in :mod:`hooked_whisper.features.bases`; an untrained network is the same evaluation on another model."""

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

SMALLEST_SHIFT = 0.1  # of the labelled positions of a clip


def shifted_labels(
    ids: Sequence[Int[np.ndarray, "position"]], rng: np.random.Generator
) -> list[Int[np.ndarray, "position"]]:
    """Labels of every utterance turned in a circle by a random number of positions, at least 10 % of those labelled.

    Every label keeps its frequency and its runs (but for the one that is cut), which a shuffle of positions would not:
    the control for measures whose rows are not independent. Unlabelled positions stay where they are; fewer than two
    labelled ones cannot be shifted and are left.
    """
    return [_shifted(one, rng) for one in ids]


def _shifted(ids: Int[np.ndarray, "position"], rng: np.random.Generator) -> Int[np.ndarray, "position"]:
    there = ids >= 0
    n = int(there.sum())
    if n < 2:
        return ids.copy()
    least = math.ceil(SMALLEST_SHIFT * n)
    turned = ids.copy()
    turned[there] = np.roll(ids[there], int(rng.integers(least, n - least, endpoint=True)))
    return turned


@dataclass(frozen=True)
class MelBands:
    """The log-mel at encoder positions, each band a feature: what selectivity the input has without any network.

    Position i is the mean of the frames ``2 i - 1``, ``2 i``, ``2 i + 1`` with weights 1/4, 1/2, 1/4: its 20 ms.
    """

    n_features: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"mel {i}" for i in range(self.n_features))

    def encode(self, mel: Float[Tensor, "*batch mel frame"]) -> Float[Tensor, "*batch position mel"]:
        """Raises :class:`AudioError` for another number of bands or an odd number of frames."""
        if mel.shape[-2] != self.n_features or mel.shape[-1] % 2:
            raise AudioError(f"expected {self.n_features} mel bands and an even number of frames, got {mel.shape[-2:]}")
        before = torch.cat([mel[..., :1], mel[..., 1:-1:2]], dim=-1)
        return (before / 4 + mel[..., ::2] / 2 + mel[..., 1::2] / 4).transpose(-1, -2)


def mel_bands(model: HookedWhisper) -> MelBands:
    """The basis for a model's ``encoder.hook_mel``."""
    return MelBands(model.cfg.encoder.n_mels)
