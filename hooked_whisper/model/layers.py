"""The small parts: linear, layer norm, MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint, watched
from hooked_whisper.model.kernels import linear, overwritable


class Linear(nn.Linear):
    """Weights follow the input's dtype, as openai-whisper does: float32 weights take a half-precision mel."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.Module):
    """``x -> (x - mean) / scale * weight + bias`` with a point on the scale and one before the affine part.

    Statistics are taken in float32 (float64 stays float64), as openai-whisper does.
    """

    def __init__(self, d_model: int, *axes: str, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.hook_scale = HookPoint(*axes, "one")  # [batch, position, 1]
        self.hook_normalized = HookPoint(*axes, "d_model")  # [batch, position, d_model]

    def normalize(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Centred and divided by the scale, without hooks."""
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """``sqrt(variance + eps)``, differentiable (the statistics that the fused norm returns are not)."""
        return (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt()

    def affine(self, normalized: Float[Tensor, "*batch d_model"], dtype: torch.dtype, keep: bool = True) -> Tensor:
        """``keep=False``: nobody has or will see ``normalized``, see :func:`gelu`."""
        weight, bias = self.weight.to(normalized.dtype), self.bias.to(normalized.dtype)
        into = normalized if not keep and overwritable() else None
        return torch.addcmul(bias, normalized, weight, out=into).to(dtype)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        wide = x if x.dtype == torch.float64 else x.float()
        normalized, _, inverse = torch.native_layer_norm(wide, wide.shape[-1:], None, None, self.eps)
        if self.hook_scale.active:
            # the statistics that come with the norm cost nothing, but have no gradient
            scale = inverse.reciprocal() if overwritable() else self.scale(wide)
            after = self.hook_scale(scale)
            if after is not scale:
                # the ratio is exactly 1 where the hook changed nothing, so looking leaves every bit as it was
                normalized = normalized * (scale / after)
        normalized = self.hook_normalized(normalized)
        return self.affine(normalized, x.dtype, keep=watched(self.hook_normalized))

    def unhooked(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same norm past the hooks, for the per-head copies of the split inputs."""
        wide = x if x.dtype == torch.float64 else x.float()
        return self.affine(self.normalize(wide), x.dtype)


class MLP(nn.Module):
    """``gelu(x W_in + b_in) W_out + b_out``"""

    def __init__(self, d_model: int, d_mlp: int, *axes: str) -> None:
        super().__init__()
        self.up = Linear(d_model, d_mlp)
        self.hook_pre = HookPoint(*axes, "d_mlp")
        self.hook_post = HookPoint(*axes, "d_mlp")
        self.down = Linear(d_mlp, d_model)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(self.up(x))  # [batch, pos, d_mlp]
        post = self.hook_post(gelu(pre, keep=watched(self.up, self.hook_pre)))  # [batch, pos, d_mlp]
        return self.down(post)


def gelu(pre: Float[Tensor, "*batch d"], keep: bool) -> Float[Tensor, "*batch d"]:
    """``F.gelu``; ``keep=False`` if nobody has or will see ``pre``, which may then give its memory to the result."""
    if keep or not overwritable():
        return F.gelu(pre)
    return torch.ops.aten.gelu_(pre)  # new memory for each block's widest tensor takes three times as long
