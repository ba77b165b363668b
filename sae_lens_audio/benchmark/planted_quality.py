"""How much of the true dictionary an SAE has recovered, where features are planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.benchmark.planted import LABELED, PlantedSpeech
from sae_lens_audio.benchmark.subjects import Subject
from sae_lens_audio.evals.decoder_rows import unit_rows


@dataclass(frozen=True)
class PlantedQuality:
    """Ground truth of one subject. Latents are matched one to one with true features, once for each score.

    mcc: cosine of a true direction and the decoder row of its latent, mean over true features that occur; 0 for one
        without a latent (mean correlation coefficient).
    f1: F1 of a latent as a detector of its feature's activity, mean over true features.
    labeled: the mean of both over the features that phone labels determine: what metrics that use labels are compared
        with.
    traits, noises: the mean of both over the features of speakers, and of noise: what metrics of speakers and of noise
        are compared with; NaN if there are no such features.
    """

    mcc: float
    f1: float
    labeled: float
    traits: float
    noises: float

    @property
    def quality(self) -> float:
        """The mean of ``mcc`` and ``f1``: what metrics without labels are compared with."""
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
    fired = (subject.encode(speech.all_rows) != 0).float()
    active = speech.all_active.float()
    both = active.T @ fired
    f1 = 2 * both / (active.sum(0)[:, None] + fired.sum(0)).clamp_min(1)
    cosines = (speech.features.directions.double() @ unit_rows(directions).T).clamp(0, 1)
    cosines[:, fired.sum(0) == 0] = 0  # the decoder row of a latent that never fires means nothing
    of_cosine, of_f1 = _matched(cosines), _matched(f1)
    occurs = speech.all_active.any(0).numpy()
    both_scores = (of_cosine + of_f1) / 2

    def of_kinds(*kinds: str) -> float:
        features = occurs & np.isin(speech.features.kinds, kinds)
        return float(both_scores[features].mean()) if features.any() else float("nan")

    return PlantedQuality(
        float(of_cosine[occurs].mean()),
        float(of_f1[occurs].mean()),
        of_kinds(*LABELED),
        of_kinds("trait"),
        of_kinds("noise"),
    )


def _matched(scores: Float[Tensor, "feature latent"]) -> Float[np.ndarray, "feature"]:
    """Return each feature's score in the one-to-one matching with the largest sum; 0 without a latent."""
    from scipy.optimize import linear_sum_assignment

    values = np.asarray(scores, dtype=np.float64)
    features, latents = linear_sum_assignment(values, maximize=True)
    matched = np.zeros(len(values))
    matched[features] = values[features, latents]
    return matched
