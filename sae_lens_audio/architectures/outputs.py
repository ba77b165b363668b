"""The result of a training loss, and the sums it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
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


class _LevelErrors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        differences = torch.empty_like(parts)
        torch.sub(bias, target, out=differences[0])
        for level, part in enumerate(parts):
            torch.add(differences[level - 1] if level else differences[0], part, out=differences[level])
        ctx.save_for_backward(differences)
        errors = torch.stack([torch.linalg.vecdot(d.flatten(), d.flatten()) for d in differences]) / len(target)
        predicted = differences[-1] + target
        ctx.mark_non_differentiable(predicted)
        return errors, predicted

    @staticmethod
    def backward(ctx: Any, to_errors: Tensor, _: Any) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (differences,) = ctx.saved_tensors
        scales = 2 * to_errors / differences.shape[1]
        to_parts = torch.empty_like(differences)
        torch.mul(differences[-1], scales[-1], out=to_parts[-1])
        for level in range(len(differences) - 2, -1, -1):  # a part is in its level and in all later ones
            torch.addcmul(to_parts[level + 1], differences[level], scales[level], out=to_parts[level])
        return to_parts, to_parts[0].sum(0), None


def level_errors(
    parts: Float[Tensor, "level row d"], bias: Float[Tensor, "d"], target: Float[Tensor, "row d"]
) -> tuple[Float[Tensor, "level"], Float[Tensor, "row d"]]:
    """Return :func:`squared_error` of ``parts.cumsum(0) + bias`` for each level, and the last reconstruction.

    The reconstruction and ``target`` get no gradient. One pass over memory for each level: autograd takes five.
    """
    return _LevelErrors.apply(parts, bias, target)
