"""How much of the true dictionary an SAE has recovered, where features are planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.benchmark.planted import PlantedSpeech
from sae_lens_audio.benchmark.subjects import Subject
from sae_lens_audio.evals.decoder_rows import unit_rows


@dataclass(frozen=True)
class PlantedQuality:
    """Ground truth of one subject. Latents are matched one to one with true features, once for each score.

    mcc: cosine of a true direction and the decoder row of its latent, mean over true features; 0 for a feature without
        a latent (mean correlation coefficient).
    f1: F1 of a latent as a detector of its feature's activity, mean over true features.
    """

    mcc: float
    f1: float

    @property
    def quality(self) -> float:
        """The mean of both: what metrics are compared with."""
        return (self.mcc + self.f1) / 2


@torch.no_grad()
def planted_quality(subject: Subject, speech: PlantedSpeech) -> PlantedQuality:
    """Score a subject against the planted dictionary.

    Raises:
        ArgumentError: the subject has no decoder rows.
    """
    directions = subject.directions
    if directions is None:
        raise ArgumentError(f"{subject.name} has no decoder rows to compare with the planted directions")
    fired = (subject.encode(speech.rows) != 0).float()
    active = speech.active.float()
    both = active.T @ fired
    f1 = 2 * both / (active.sum(0)[:, None] + fired.sum(0)).clamp_min(1)
    cosines = (speech.features.directions.double() @ unit_rows(directions).T).clamp(0, 1)
    cosines[:, fired.sum(0) == 0] = 0  # the decoder row of a latent that never fires means nothing
    return PlantedQuality(_matched_mean(cosines), _matched_mean(f1))


def _matched_mean(scores: Float[Tensor, "feature latent"]) -> float:
    """Return the mean over features of the one-to-one matching with the largest sum; without a latent, 0."""
    from scipy.optimize import linear_sum_assignment

    values = np.asarray(scores, dtype=np.float64)
    return float(values[linear_sum_assignment(values, maximize=True)].sum() / len(values))
