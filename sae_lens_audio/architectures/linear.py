"""Matrix products: without overflow in float16, and ``(x - center) @ weight + bias`` without a gradient for ``x``."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model.kernels import recurring_linear


class _HalfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _half_product(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        to_x = _half_product(gradient, weight.T).to(x.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_x, None
        with torch.autocast(x.device.type, enabled=False):  # a sum over rows
            return to_x, x.flatten(0, -2).to(weight.dtype).T @ gradient.flatten(0, -2).to(weight.dtype)


def _half_product(x: Tensor, weight: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.exp2(torch.frexp(norms).exponent.to(norms.dtype))  # a power of two: scaling does not round
    with torch.autocast(x.device.type, enabled=False):
        half = (x / scale).to(torch.float16) @ weight.to(torch.float16)
    return half.to(weight.dtype) * scale.to(weight.dtype)


def product(x: Float[Tensor, "*batch d"], weight: Float[Tensor, "d n"]) -> Float[Tensor, "*batch n"]:
    """Return ``x @ weight`` in the dtype of the weights; under autocast, computed in autocast's dtype.

    In float16, which ends at 65,504, rows are divided by a power of two above their norm before the product and
    multiplied by it after. Activations of any size thus have finite products, with the same relative rounding.
    Gradients of the weights are then sums in the dtype of the weights.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or weight.dtype == torch.float64:
        return x @ weight
    if torch.get_autocast_dtype(kind) == torch.float16:
        return _HalfProduct.apply(x, weight)
    return (x @ weight).to(weight.dtype)


class _CenteredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, center: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, *(() if center is None else (center,)))
        return recurring_linear(x if center is None else x - center, weight.T, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, *center = ctx.saved_tensors
        rows = x - center[0] if center else x
        # under autocast the gradient has a narrower dtype
        to_weight = recurring_linear(gradient.T, rows.to(gradient.dtype).T).T.to(weight.dtype)
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

    ``x`` gets no gradient, so the gradient of ``center`` needs only a matrix-vector product. Products go through
    oneDNN, which prepares a kernel per shape: use few sizes of batches.
    """
    return _CenteredLinear.apply(x, weight, bias, center)
