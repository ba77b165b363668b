"""``(x - centre) @ weight + bias`` with gradients for the weights alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _CentredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, *(() if centre is None else (centre,)))
        return torch.addmm(bias, x if centre is None else x - centre, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, *centre = ctx.saved_tensors
        rows = x - centre[0] if centre else x
        to_weight = (rows.to(gradient.dtype).T @ gradient).to(weight.dtype)  # autocast's gradients are narrower
        to_bias = gradient.sum(0, dtype=weight.dtype)
        # the same as minus the sum over rows of gradient @ weight.T, without that product
        return None, to_weight, to_bias, -(weight @ to_bias) if centre else None


def centred_linear(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    centre: Float[Tensor, "d"] | None,
) -> Float[Tensor, "row d_sae"]:
    """For losses: ``x`` gets no gradient, so that the centre's costs a product with a vector and not with a matrix."""
    return _CentredLinear.apply(x, weight, bias, centre)
