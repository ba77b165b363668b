"""Scaling of activations for training. :meth:`SAE.unscaled` undoes it in the weights."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sae_lens_audio.errors import TrainingError


def unit_scale(rows: Float[Tensor, "row d"]) -> float:
    """Return the factor that makes the mean squared distance of a row from the mean equal to its width.

    Raises:
        TrainingError: all rows are equal, or some are not finite.
    """
    spread = (rows - rows.mean(0)).square().sum(1).mean().item()
    if not 0 < spread < float("inf"):
        raise TrainingError(f"activations of the first batch have a mean squared spread of {spread}: nothing to learn")
    return float((rows.shape[1] / spread) ** 0.5)
