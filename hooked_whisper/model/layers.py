"""The small parts: linear layer, layer norm, MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint
from hooked_whisper.model.kernels import gelu, layer_norm, linear, overwritable, scale_and_shift, watched


class Linear(nn.Linear):
    """A linear layer whose weights take the input's dtype, as in openai-whisper: a half-precision mel is accepted."""

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.Module):
    """``(x - mean) / scale * weight + bias``, with a hook point on the scale and one before the affine part.

    Statistics are computed in float32 (float64 stays float64), as in openai-whisper.
    """

    def __init__(self, d_model: int, *axes: str, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.hook_scale = HookPoint(*axes, "one", sizes={"one": 1})  # [batch, position, 1]
        self.hook_normalized = HookPoint(*axes, "d_model", sizes={"d_model": d_model})  # [batch, position, d_model]

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        wide = _wide(x)
        normalized, inverse_scale = layer_norm(wide, self.eps)
        if self.hook_scale.active:
            # the inverse scale of the kernel is free, but has no gradient
            scale = inverse_scale.reciprocal() if overwritable() else self.scale(wide)
            edited = self.hook_scale(scale)
            if edited is not scale:
                # the ratio is exactly 1 where the hook changed nothing, so the output is then bit-identical
                normalized = normalized * (scale / edited)
        normalized = self.hook_normalized(normalized)
        return self._affine(normalized, x.dtype, overwrite=not watched(self.hook_normalized))

    def normalize(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return ``(x - mean) / scale``, without hooks."""
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """Return ``sqrt(variance + eps)``, with a gradient."""
        return (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt()

    def unhooked(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the norm of ``x`` without hooks."""
        return self._affine(self.normalize(_wide(x)), x.dtype, overwrite=False)

    def _affine(self, normalized: Tensor, dtype: torch.dtype, overwrite: bool) -> Tensor:
        weight, bias = self.weight.to(normalized.dtype), self.bias.to(normalized.dtype)
        return scale_and_shift(normalized, weight, bias, overwrite).to(dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class MLP(nn.Module):
    """``gelu(x W_in + b_in) W_out + b_out``"""

    def __init__(self, d_model: int, d_mlp: int, *axes: str) -> None:
        super().__init__()
        self.up = Linear(d_model, d_mlp)
        self.hook_pre = HookPoint(*axes, "d_mlp", sizes={"d_mlp": d_mlp}, aliases=(".0",))
        self.hook_post = HookPoint(*axes, "d_mlp", sizes={"d_mlp": d_mlp}, aliases=(".1",))
        self.down = Linear(d_mlp, d_model)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(self.up(x))  # [batch, pos, d_mlp]
        post = self.hook_post(gelu(pre, overwrite=not watched(self.up, self.hook_pre)))  # [batch, pos, d_mlp]
        return self.down(post)

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.up.weight.mT

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        return self.up.bias

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return self.down.weight.mT

    @property
    def b_out(self) -> Float[Tensor, "d_model"]:
        return self.down.bias
