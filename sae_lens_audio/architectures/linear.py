"""``(x - center) @ weight + bias`` with gradients for the weights only."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _CenteredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, *(() if center is None else (center,)))
        return torch.addmm(bias, x if center is None else x - center, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, *center = ctx.saved_tensors
        rows = x - center[0] if center else x
        to_weight = (rows.to(gradient.dtype).T @ gradient).to(
            weight.dtype
        )  # under autocast the gradient has a narrower dtype
        to_bias = gradient.sum(0, dtype=weight.dtype)
        # equal to -(gradient @ weight.T).sum(0), without that product
        return None, to_weight, to_bias, -(weight @ to_bias) if center else None


def centered_linear(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    center: Float[Tensor, "d"] | None,
) -> Float[Tensor, "row d_sae"]:
    """Return ``(x - center) @ weight + bias`` for a loss.

    ``x`` gets no gradient, so the gradient of ``center`` needs only a matrix-vector product.
    """
    return _CenteredLinear.apply(x, weight, bias, center)
