"""The result of a training loss, and the sums it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import Showing


@dataclass(frozen=True, eq=False, repr=False)
class TrainStepOutput(Showing):
    """The terms of a training loss, coefficients included: scalars, means over the rows of a batch.

    reconstruction: squared error, summed over the width of an activation.
    sparsity: sparsity penalty; 0 where the activation function makes features sparse (TopK).
    auxiliary: auxiliary term that revives dead features or trains a gate; 0 if the architecture has none.
    error: squared error of the full reconstruction, comparable across architectures; no gradient.
    active: number of rows in which each feature is not 0.
    """

    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    error: Float[Tensor, ""]
    active: Int[Tensor, "d_sae"]

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.reconstruction + self.sparsity + self.auxiliary


def rows_with(features: Float[Tensor, "row d_sae"]) -> Int[Tensor, "d_sae"]:
    """Return the number of rows in which each feature is above 0."""
    return (features.detach() > 0).sum(0)


def squared_error(predicted: Float[Tensor, "row *d"], target: Float[Tensor, "row *d"]) -> Float[Tensor, ""]:
    """Return the squared distance of each row, averaged over rows."""
    return F.mse_loss(predicted, target, reduction="sum") / len(target)
