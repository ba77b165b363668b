"""Fast kernels behind plain functions. Each must agree with its fallback in ordinary torch, named ``plain_*``.

Private torch symbols are used only in this file.

- ``linear``: oneDNN for float32 on a CPU. torch's BLAS is a tenth slower and computes products with few rows (the
  unembedding of one token) on one core. oneDNN compiles and caches a kernel per shape, so it is used only for
  recurring shapes: thousands of different ones would take gigabytes.
- one row in ``linear`` and ``fused_attention``: our own loops on one core, see ``row_kernels``, where several cores
  would not be faster.
- ``linear``, ``conv1d``, ``fused_attention`` in float16 on a CPU: in float32, which is faster.
- ``layer_norm``: the fused norm together with its inverse scale.
- ``scale_and_shift``, ``gelu``: in place where nothing else needs the input.
- ``fused_attention``, ``windowed_attention``: without materializing scores; a local window costs only its width.
- ``attention_part``: fused attention over some of the keys, to be merged with the part over the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.model.row_kernels import row_attention, row_product

Heads = tuple[int, ...]

_ROW_WEIGHTS = 2**20  # entries of a larger weight are read faster by several cores
_ROW_THREADS = 2  # more cores attend faster
_ROW_KEYS = 512  # fewer keys stay in the processor's cache, where torch's kernel is as fast
FEW_ROWS = 8  # rows of decoding: one per beam
WINDOW = 1500  # positions of every released encoder's window
_VOCABULARY = 8192  # a weight with at least this many rows is an unembedding
_MOST_TOKENS, _PADDED_TO = 1024, 32

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

_FLASH_ON_CPU = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)

_CPU_BLOCK = 32  # queries per block; larger blocks see more keys outside of their windows
_GPU_BLOCK = 128  # on a GPU small products are slower


# --- what torch is doing -----------------------------------------------------------------------------------------


def transformed() -> bool:
    """Return whether torch.compile, torch.func, or forward-mode differentiation is active."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def overwritable() -> bool:
    """Return whether tensors of this pass may be overwritten after use: no gradient, compilation or transform."""
    return not torch.is_grad_enabled() and not transformed()


def watched(*modules: nn.Module) -> bool:
    """Return whether any hook, ours or torch's, sees the passes of these modules."""
    if globally_hooked():
        return True
    return any(any(hook_dicts(m)) or getattr(m, "active", False) for m in modules)


def has_forward_hooks(module: nn.Module) -> bool:
    """Return whether the module has a forward hook of torch."""
    return bool(module._forward_hooks)


def hook_dicts(module: nn.Module) -> tuple[Mapping[Any, Any], ...]:
    """Return the dictionaries in which the module holds torch's hooks on its pass."""
    return module._forward_hooks, module._forward_pre_hooks


def globally_hooked() -> bool:
    """Return whether torch runs hooks on every module."""
    return bool(nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)


# --- products ------------------------------------------------------------------------------------------------------


def linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """``x Wᵀ + b``, with oneDNN for whole windows, for a few rows, and for the unembedding of a text."""
    rows = x.numel() // max(1, x.shape[-1])
    if 0 < rows <= FEW_ROWS:
        return few_rows_linear(x, weight, bias)(x, weight, bias)
    if _slow_in_half(x) and rows > 0:
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if rows > 0 and rows % WINDOW == 0:
        return recurring_linear(x, weight, bias)
    if FEW_ROWS < rows <= _MOST_TOKENS and len(weight) >= _VOCABULARY and _onednn_applies(x, weight, bias):
        # padded to a multiple, so that there are few shapes; the padding costs less than oneDNN saves
        padded = F.pad(x.reshape(rows, -1), (0, 0, 0, -rows % _PADDED_TO))
        return recurring_linear(padded, weight, bias)[:rows].view(*x.shape[:-1], len(weight))
    return plain_linear(x, weight, bias)


def conv1d(
    x: Float[Tensor, "batch d_in time"],
    weight: Float[Tensor, "d_out d_in width"],
    bias: Float[Tensor, "d_out"] | None,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
) -> Float[Tensor, "batch d_out time_out"]:
    """The convolution over time."""
    if _slow_in_half(x):
        half, bias = x.dtype, None if bias is None else bias.float()
        return F.conv1d(x.float(), weight.float(), bias, stride, padding).to(half)
    return F.conv1d(x, weight, bias, stride, padding)


def _slow_in_half(x: Tensor) -> bool:
    """Whether torch computes with this tensor 2 to 50 times as fast in float32: float16 on a CPU."""
    return x.dtype == torch.float16 and x.device.type == "cpu"


def few_rows_linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return what :func:`linear` does with up to ``FEW_ROWS`` rows."""
    if not _onednn_applies(x, weight, bias):
        return plain_linear
    one_row = x.numel() == weight.shape[1] and (bias is None or bias.dtype == x.dtype) and not torch.jit.is_tracing()
    one_core = torch.get_num_threads() == 1 or weight.numel() <= _ROW_WEIGHTS
    return row_product if one_row and one_core else _onednn_linear


def recurring_linear(
    x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, "d_out"] | None = None
) -> Float[Tensor, "*batch d_out"]:
    """``x Wᵀ + b`` with oneDNN, for callers that use few different shapes."""
    return (_onednn_linear if _onednn_applies(x, weight, bias) else plain_linear)(x, weight, bias)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def _onednn_applies(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can be used: no gradient, and no transform or dispatch mode that must see the product."""
    if not (_ONEDNN and x.dim() > 1 and type(x) is Tensor and x.device.type == "cpu"):
        return False
    if not x.dtype == weight.dtype == torch.float32 or transformed():
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    return not torch.is_autocast_enabled("cpu") and not torch._C._len_torch_dispatch_stack()


# --- elementwise ---------------------------------------------------------------------------------------------------


def layer_norm(x: Float[Tensor, "*batch d"], eps: float) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch 1"]]:
    """Return ``(x - mean) / scale`` and ``1 / scale``, where ``scale = sqrt(variance + eps)``.

    The inverse scale has no gradient.
    """
    normalized, _, inverse_scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    return normalized, inverse_scale


def plain_layer_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    inverse_scale = (x.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    return (x - x.mean(-1, keepdim=True)) * inverse_scale, inverse_scale


def scale_and_shift(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, "d"], bias: Float[Tensor, "d"], overwrite: bool
) -> Float[Tensor, "*batch d"]:
    """``x * weight + bias``. With ``overwrite`` the result may take the memory of ``x``."""
    return torch.addcmul(bias, x, weight, out=x if overwrite and overwritable() else None)


def plain_scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor, overwrite: bool) -> Tensor:
    return x * weight + bias


def gelu(x: Float[Tensor, "*batch d"], overwrite: bool) -> Float[Tensor, "*batch d"]:
    """The exact GELU. With ``overwrite`` the result may take the memory of ``x``.

    Allocating new memory for it, each block's widest tensor, would take three times as long.
    """
    return torch.ops.aten.gelu_(x) if overwrite and overwritable() else F.gelu(x)


def plain_gelu(x: Tensor, overwrite: bool) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


# --- attention -----------------------------------------------------------------------------------------------------


def fused_attention(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "#batch head key d_head"],
    v: Float[Tensor, "#batch head key d_head"],
    mask: Tensor | None = None,
    causal: bool = False,
) -> Float[Tensor, "batch head query d_head"]:
    """``softmax(q kᵀ / sqrt(d_head)) v`` without materializing the scores.

    mask: bool (True = may attend) or additive, broadcastable to ``[batch, head, query, key]``.
    """
    one_row = mask is None and len(q) == q.shape[2] == 1 and k.shape[2] >= _ROW_KEYS and not causal
    one_core = one_row and torch.get_num_threads() <= _ROW_THREADS and not torch.jit.is_tracing()
    if one_core and _onednn_applies(q, k, v):
        return row_attention(q, k, v)
    if mask is not None:
        # with a three-axis mask, torch falls back to a slow kernel
        mask = mask[None] if mask.dim() == 3 else mask
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
    if _slow_in_half(q) and q.shape[2] > 1:
        additive = mask if mask is None or mask.dtype == torch.bool else mask.float()
        z = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=additive, is_causal=causal)
        return z.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    dead = (scores == -torch.inf).all(-1, keepdim=True)  # a query without any key gives zeros
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0) @ v


def attention_part(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch head key d_head"],
    v: Float[Tensor, "batch head key d_head"],
) -> tuple[Float[Tensor, "batch head query d_head"], Float[Tensor, "batch head query"]]:
    """Return attention over some of the keys, and the logarithm of the sum of its exponentials.

    Parts over disjoint keys, weighted by these sums, add up to the attention over all of them. No gradient.
    """
    if _FLASH_ON_CPU is None or q.device.type != "cpu" or transformed():
        return plain_attention_part(q, k, v)
    return _FLASH_ON_CPU(q, k, v)


def plain_attention_part(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return scores.softmax(-1).to(v.dtype) @ v, scores.logsumexp(-1)


@runtime_checkable
class AttentionWindow(Protocol):
    """The part of :class:`~hooked_whisper.model.masks.LocalWindow` that the kernel uses."""

    @property
    def k(self) -> int: ...

    @property
    def n_rows(self) -> int | None: ...

    def __call__(self, query: Int[Tensor, "query"], key: Int[Tensor, "key"]) -> Bool[Tensor, "query key"]: ...


def windowed_attention(
    q: Float[Tensor, "batch head n d_head"],
    k: Float[Tensor, "batch head n d_head"],
    v: Float[Tensor, "batch head n d_head"],
    windows: Mapping[Any, Heads],
) -> Float[Tensor, "batch head n d_head"]:
    """Compute attention within one window per head, at a cost that grows with its width. Differentiable.

    Queries are cut into blocks, each with the keys that any query of the block may attend to: overlapping views of the
    keys, not copies. The blocks are one batch of the fused kernel, with ``block + 2 k`` keys instead of all.

    windows: :class:`AttentionWindow` -> the heads that have it; ``None`` for all keys.

    Source: the sliding chunks of Longformer, Beltagy et al. 2020, arXiv:2004.05150, section 3.2.
    """
    if len(windows) == 1:
        return _one_window(q, k, v, next(iter(windows)))
    parts = [_one_window(q[:, heads], k[:, heads], v[:, heads], window) for window, heads in windows.items()]
    order = torch.tensor([head for heads in windows.values() for head in heads], device=q.device)
    return torch.cat(parts, dim=1)[:, order.argsort()]


def plain_windowed_attention(q: Tensor, k: Tensor, v: Tensor, windows: Mapping[Any, Heads]) -> Tensor:
    positions = torch.arange(q.shape[2], device=q.device)
    mask = torch.ones(q.shape[1], q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
    for window, heads in windows.items():
        if window is not None:
            mask[list(heads)] = window(positions, positions)
    return plain_attention(q, k, v, mask[None])


def _one_window(q: Tensor, k: Tensor, v: Tensor, window: AttentionWindow | None) -> Tensor:
    n = q.shape[2]
    size = _CPU_BLOCK if q.device.type == "cpu" else _GPU_BLOCK
    if window is None or window.k >= n - 1:
        return F.scaled_dot_product_attention(q, k, v)
    rows = n if window.n_rows is None else min(window.n_rows, n)
    if size + 2 * window.k >= n:  # every block would see all keys
        positions = torch.arange(n, device=q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=window(positions, positions)[None, None])
    parts = [_banded(q[:, :, :rows], k, v, window.k, size)] if rows else []
    if rows < n:
        parts.append(F.scaled_dot_product_attention(q[:, :, rows:], k, v))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def _banded(q: Tensor, k: Tensor, v: Tensor, width: int, size: int) -> Tensor:
    """Attention of the first queries, ``q``, to keys at a distance of at most ``width``, in blocks of ``size``."""
    batch, heads, rows, d_head = q.shape
    n_blocks, n_keys = -(-rows // size), size + 2 * width
    missing = max(0, n_blocks * size + width - k.shape[2])  # keys after the last block

    def blocks_of(t: Tensor) -> Float[Tensor, "batch_head block key d_head"]:
        t = F.pad(t, (0, 0, width, missing)).reshape(batch * heads, -1, d_head)
        return t.as_strided((batch * heads, n_blocks, n_keys, d_head), (t.stride(0), size * d_head, d_head, 1))

    first = torch.arange(n_blocks, device=q.device)[:, None, None] * size
    query = first + torch.arange(size, device=q.device)[:, None]
    key = first - width + torch.arange(n_keys, device=q.device)
    near: Bool[Tensor, "block query key"] = ((key - query).abs() <= width) & (key >= 0) & (key < k.shape[2])
    q_blocks = F.pad(q, (0, 0, 0, n_blocks * size - rows)).reshape(batch * heads, n_blocks, size, d_head)
    z = F.scaled_dot_product_attention(q_blocks, blocks_of(k), blocks_of(v), attn_mask=near[None])
    return z.reshape(batch, heads, -1, d_head)[:, :, :rows]
