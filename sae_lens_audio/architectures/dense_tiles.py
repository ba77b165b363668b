"""Encoding and decoding tile by tile with elementwise activation functions, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_audio.architectures.sparse.tiles import pre_activation_tiles, product, product_dtype, tile_rows

Activation = Callable[..., tuple[tuple[Tensor, ...], Tensor]]
"""``activation(pre, *parameters)`` returns feature activations, one matrix per decoder, and the penalty of each value.

All arguments broadcast: ``pre [row, d_sae]`` with parameters ``[d_sae]``, or ``pre [entry]`` with those of the entries.
"""


def autoencode_tiles(
    centered: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    center: Float[Tensor, "d"] | None,
    decoders: Sequence[Float[Tensor, "d_sae d_out"]],
    activation: Activation,
    parameters: Sequence[Float[Tensor, "d_sae"]],
) -> tuple[tuple[Float[Tensor, "row d_out"], ...], Float[Tensor, "row"], Int[Tensor, "d_sae"]]:
    """Return the decoded features of each decoder, the penalty of each row, and the number of rows in which each
    feature is above 0.

    ``center``, which is already subtracted, gets a gradient; ``centered`` gets none. Only the pre-activations are kept
    for the backward pass.
    """
    penalty, active, *decoded = _AutoencodeTiles.apply(
        centered, weight, bias, center, activation, len(decoders), *decoders, *parameters
    )
    return tuple(decoded), penalty, active


class _AutoencodeTiles(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        centered: Tensor,
        weight: Tensor,
        bias: Tensor,
        center: Tensor | None,
        activation: Activation,
        n_decoders: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        decoders, parameters = tensors[:n_decoders], tensors[n_decoders:]
        ctx.dtype = product_dtype(weight)
        penalty: list[Tensor] = []
        active = torch.zeros(weight.shape[1], dtype=torch.int64, device=weight.device)
        decoded: list[list[Tensor]] = [[] for _ in decoders]
        tiles: list[Tensor] = []
        for pre in pre_activation_tiles(centered, weight, bias):
            features, penalties = activation(pre, *parameters)
            penalty.append(penalties.sum(1))
            active += (features[0] > 0).sum(0)
            for outputs, acts, decoder in zip(decoded, features, decoders, strict=True):
                outputs.append(product(acts.to(ctx.dtype), decoder.to(ctx.dtype)).to(weight.dtype))
            tiles.append(pre)
        ctx.save_for_backward(centered, weight, *tensors, *tiles)
        ctx.has_center, ctx.activation, ctx.n_decoders = center is not None, activation, n_decoders
        ctx.mark_non_differentiable(active)
        ctx.set_materialize_grads(False)  # terms of the loss that are not differentiated cost nothing
        return torch.cat(penalty), active, *(torch.cat(outputs) for outputs in decoded)

    @staticmethod
    def backward(ctx: Any, to_penalty: Tensor | None, _: Any, *to_decoded: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        centered, weight, *saved = ctx.saved_tensors
        learned = ctx.needs_input_grad[6:]
        tensors, tiles = saved[: len(learned)], saved[len(learned) :]
        decoders, parameters = tensors[: ctx.n_decoders], tensors[ctx.n_decoders :]
        size = tile_rows(centered.device, weight.shape[1])
        used = {j: gradient for j, gradient in enumerate(to_decoded) if gradient is not None}
        to_weight, to_bias = torch.zeros_like(weight), torch.zeros_like(weight[0])
        to_tensors: list[Tensor | None] = [None] * len(tensors)
        for i, (x, pre) in enumerate(zip(centered.split(size), tiles, strict=True)):
            to_rows = {j: gradient[i * size : i * size + len(x)].to(ctx.dtype) for j, gradient in used.items()}
            with torch.enable_grad():
                leaves = [leaf.detach().requires_grad_() for leaf in (pre, *parameters)]
                features, penalties = ctx.activation(*leaves)
            outputs = [features[j] for j in used]
            to_outputs = [product(to_rows[j], decoders[j].to(ctx.dtype).T).to(features[j].dtype) for j in used]
            if to_penalty is not None:
                outputs.append(penalties)
                of_tile = to_penalty[i * size : i * size + len(x), None]
                to_outputs.append(of_tile.to(penalties.dtype).expand_as(penalties))
            to_pre, *to_parameters = torch.autograd.grad(outputs, leaves, to_outputs, allow_unused=True)
            to_decoders = [
                product(features[j].detach().to(ctx.dtype).T, to_rows[j]) if j in used and learned[j] else None
                for j in range(ctx.n_decoders)
            ]
            for j, part in enumerate((*to_decoders, *to_parameters)):
                if part is not None:
                    total = to_tensors[j]
                    to_tensors[j] = part if total is None else total.add_(part)
            if to_pre is not None:
                to_weight += product(x.to(ctx.dtype).T, to_pre.to(ctx.dtype))
                to_bias += to_pre.sum(0)
        # equal to -(to_pre @ weight.T).sum(0) over all rows, without that product
        to_center = -(weight @ to_bias) if ctx.has_center else None
        return None, to_weight, to_bias, to_center, None, None, *to_tensors
