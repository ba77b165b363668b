"""Attention within a window at a cost that grows with the window, not with the square of the length.

Queries go in blocks, each with the keys that any query of the block may attend to: overlapping views of the keys, not
copies. Blocks are one batch for the fused kernel, which then sees ``block + 2 k`` keys where it would see all of them.

Source: the sliding chunks of Longformer, Beltagy et al. 2020, arXiv:2004.05150, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model.masks import LocalWindow, MaskEntry

_CPU_BLOCK = 32  # queries; larger ones see more keys outside of their windows
_GPU_BLOCK = 128  # elsewhere small products are slower

Heads = tuple[int, ...]


def windows_of_heads(entries: Sequence[MaskEntry], n_heads: int) -> dict[LocalWindow | None, Heads] | None:
    """Which heads have which window (``None``: all keys); ``None`` if some masks are more than one window a head."""
    windows: list[LocalWindow | None] = [None] * n_heads
    for entry in entries:
        if not isinstance(entry.mask, LocalWindow):
            return None
        for head in range(n_heads) if entry.heads is None else entry.heads:
            own = windows[head]
            if own is not None and own.n_rows != entry.mask.n_rows:
                return None
            windows[head] = entry.mask if own is None or entry.mask.k < own.k else own
    found: dict[LocalWindow | None, Heads] = {}
    for head, window in enumerate(windows):
        found[window] = (*found.get(window, ()), head)
    return found


def attend_within_windows(
    q: Float[Tensor, "batch head n d_head"],
    k: Float[Tensor, "batch head n d_head"],
    v: Float[Tensor, "batch head n d_head"],
    windows: dict[LocalWindow | None, Heads],
) -> Float[Tensor, "batch head n d_head"]:
    """What the fused kernel gives with the windows as masks, within rounding. Differentiable."""
    if len(windows) == 1:
        return _attend(q, k, v, next(iter(windows)))
    parts = [_attend(q[:, heads], k[:, heads], v[:, heads], window) for window, heads in windows.items()]
    order = torch.tensor([head for heads in windows.values() for head in heads], device=q.device)
    return torch.cat(parts, dim=1)[:, order.argsort()]


def _attend(q: Tensor, k: Tensor, v: Tensor, window: LocalWindow | None) -> Tensor:
    n = q.shape[2]
    size = _CPU_BLOCK if q.device.type == "cpu" else _GPU_BLOCK
    if window is None or window.k >= n - 1:
        return F.scaled_dot_product_attention(q, k, v)
    rows = n if window.n_rows is None else min(window.n_rows, n)
    if size + 2 * window.k >= n:  # every block would see all keys
        at = torch.arange(n, device=q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=window(at, at)[None, None])
    parts = [_banded(q[:, :, :rows], k, v, window.k, size)] if rows else []
    if rows < n:
        parts.append(F.scaled_dot_product_attention(q[:, :, rows:], k, v))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def _banded(q: Tensor, k: Tensor, v: Tensor, width: int, size: int) -> Tensor:
    """The first rows ``q`` of a longer ``k`` and ``v``."""
    batch, heads, rows, d_head = q.shape
    blocks, seen = -(-rows // size), size + 2 * width
    end = max(0, blocks * size + width - k.shape[2])  # keys missing behind the last block

    def views(t: Tensor) -> Tensor:  # [batch * head, block, seen, d_head]
        t = F.pad(t, (0, 0, width, end)).reshape(batch * heads, -1, d_head)
        return t.as_strided((batch * heads, blocks, seen, d_head), (t.stride(0), size * d_head, d_head, 1))

    first = torch.arange(blocks, device=q.device)[:, None, None] * size
    query = first + torch.arange(size, device=q.device)[:, None]
    key = first - width + torch.arange(seen, device=q.device)
    near = ((key - query).abs() <= width) & (key >= 0) & (key < k.shape[2])  # [block, size, seen]
    blocked = F.pad(q, (0, 0, 0, blocks * size - rows)).reshape(batch * heads, blocks, size, d_head)
    z = F.scaled_dot_product_attention(blocked, views(k), views(v), attn_mask=near[None])
    return z.reshape(batch, heads, -1, d_head)[:, :, :rows]
