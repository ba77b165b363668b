"""``x Wᵀ + b`` by oneDNN where that is faster than what torch takes by itself.

For float32 on a CPU torch asks its BLAS, which is a tenth slower here and computes products with few rows (the
unembedding of one token) on one core. oneDNN compiles a kernel for each shape and keeps it, so this is for shapes that
come again and again: with thousands of different ones memory would grow to gigabytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.torch_state import transformed

FEW_ROWS = 8  # as many as decoding has at a time: one for each beam
WINDOW = 1500  # positions of every released encoder's window
_VOCABULARY = 8192  # rows of a weight from which on it is an unembedding
_MOST_TOKENS, _FILLED = 1024, 32

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """``F.linear``, faster for whole windows, for a few rows, and for the unembedding of a text."""
    rows = x.numel() // max(1, x.shape[-1])
    if 0 < rows <= FEW_ROWS or (rows > 0 and rows % WINDOW == 0):
        return recurring_linear(x, weight, bias)
    if FEW_ROWS < rows <= _MOST_TOKENS and len(weight) >= _VOCABULARY and _usable(x, weight, bias):
        # filled up, so that there are few shapes: less than what it saves
        filled = F.pad(x.reshape(rows, -1), (0, 0, 0, -rows % _FILLED))
        return recurring_linear(filled, weight, bias)[:rows].view(*x.shape[:-1], len(weight))
    return F.linear(x, weight, bias)


def recurring_linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """``F.linear``, faster; for shapes of which a program has few."""
    if _usable(x, weight, bias):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _usable(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return _AVAILABLE and x.dim() > 1 and _plain(x, weight, bias)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Nothing but numbers is wanted: no gradient, no transform or mode that must see the product."""
    if not (type(x) is Tensor and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu") or transformed():
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    return not torch.is_autocast_enabled("cpu") and not torch._C._len_torch_dispatch_stack()


def overwritable() -> bool:
    """Whether nothing may want a tensor of this pass once it has been used: no gradient, compilation or transform."""
    return not torch.is_grad_enabled() and not transformed()
