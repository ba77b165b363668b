"""Multi-head attention, self and cross, fused where nobody listens to scores or pattern."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint, StackClock
from hooked_whisper.model.layers import Linear
from hooked_whisper.model.masks import Kind, MaskEntry, Pass, combine_masks
from hooked_whisper.model.windowed_attention import attend_within_windows, windows_of_heads


class KVCache(dict[nn.Module, Tensor]):
    """Keys and values seen so far: projection module -> ``[batch, position, head, d_head]`` (after its hooks).

    Keyed like openai-whisper's cache, so its beam search can reorder the rows.
    """

    def n_tokens(self, attn: Attention) -> int:
        """Number of tokens already in the cache."""
        return self[attn.key].shape[1] if attn.key in self else 0


class Attention(nn.Module):
    """``softmax(q kᵀ / sqrt(d_head)) v`` per head, then the output projection.

    Returns the output and, if they had to be computed, the pre-softmax scores (for openai-whisper's word timing).
    """

    def __init__(self, d_model: int, n_heads: int, kind: Kind) -> None:
        super().__init__()
        query_axis = "position" if kind == "encoder" else "token"
        key_axis = "token" if kind == "decoder" else "position"
        self.kind: Kind = kind
        self.n_heads = n_heads
        self.name = ""
        self.clock = StackClock()
        self.query = Linear(d_model, d_model)
        self.key = Linear(d_model, d_model, bias=False)
        self.value = Linear(d_model, d_model)
        self.hook_q = HookPoint("batch", query_axis, "head", "d_head")
        self.hook_k = HookPoint("batch", key_axis, "head", "d_head")
        self.hook_v = HookPoint("batch", key_axis, "head", "d_head")
        self.hook_attn_scores = HookPoint("batch", "head", "query", "key")
        self.hook_pattern = HookPoint("batch", "head", "query", "key")
        self.hook_z = HookPoint("batch", query_axis, "head", "d_head")
        self.hook_result = HookPoint("batch", query_axis, "head", "d_model", optional=True)
        self.out = Linear(d_model, d_model)
        self.masks: list[MaskEntry] = []

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles carry no masks, as they carry no hooks
        return {**super().__getstate__(), "masks": []}

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        source: Float[Tensor, "clip key d_model"] | None = None,
        kv_cache: KVCache | None = None,
        head_inputs: dict[str, Float[Tensor, "batch query head d_model"]] | None = None,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """``source`` is what keys and values are made from (default: ``x``).

        ``head_inputs`` holds, for ``q``, ``k`` or ``v``, what to add to each head's own copy of the input.
        """
        deltas = head_inputs or {}
        q = self.hook_q(self._project(self.query, x, deltas.get("q")))  # [batch, query, head, d_head]
        k, v = self._keys_and_values(x if source is None else source, kv_cache, deltas)
        z, scores = self._attend(q, k, v)
        z = self.hook_z(z)  # [batch, query, head, d_head]
        out = self.out(z.flatten(2))
        if self.hook_result.active:
            w_out = self.out.weight.to(z.dtype).unflatten(1, (self.n_heads, -1))
            result = einsum(z, w_out, "b q h e, d h e -> b q h d")
            # written as a difference, so that looking leaves every bit of the output as it was
            out = out + (self.hook_result(result) - result).sum(2)
        return out, scores

    def _project(self, linear: Linear, x: Tensor, delta: Tensor | None) -> Tensor:
        heads = linear(x).unflatten(-1, (self.n_heads, -1))
        if delta is not None:
            weight = linear.weight.to(x.dtype).unflatten(0, (self.n_heads, -1))
            heads = heads + einsum(delta, weight, "b p h d, h e d -> b p h e")
        return heads

    def _keys_and_values(
        self, source: Tensor, kv_cache: KVCache | None, deltas: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions so far. Cross-attention makes them once, self-attention appends."""
        if kv_cache is not None and self.kind == "cross" and self.key in kv_cache:
            return kv_cache[self.key], kv_cache[self.value]
        k = self.hook_k(self._project(self.key, source, deltas.get("k")))  # [batch, key, head, d_head]
        v = self.hook_v(self._project(self.value, source, deltas.get("v")))
        if kv_cache is not None:
            if self.kind == "cross":
                # the fused kernel reads a head's keys one after the other, token after token
                k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (k, v))
            elif self.key in kv_cache:
                k = torch.cat([kv_cache[self.key], k], dim=1)
                v = torch.cat([kv_cache[self.value], v], dim=1)
            kv_cache[self.key], kv_cache[self.value] = k, v
        return k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        causal = self.kind == "decoder"
        start = self.clock.offset
        if k.shape[0] != q.shape[0]:  # one clip for many rows of tokens
            k, v = (t.expand(q.shape[0], -1, -1, -1) for t in (k, v))
        now = Pass(
            name=self.name,
            kind=self.kind,
            batch=q.shape[0],
            n_heads=self.n_heads,
            # the keys of the encoder are the positions at hand, also when they do not begin at 0
            start=0 if self.kind == "encoder" else start,
            n_query=q.shape[1],
            n_key=k.shape[1],
            device=q.device,
        )
        # openai-whisper's word timing takes the scores by a forward hook on this module
        explicit = self.hook_attn_scores.active or self.hook_pattern.active or bool(self._forward_hooks)
        if explicit:
            return self._attend_explicitly(q, k, v, combine_masks(self.masks, causal, now))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        windows = windows_of_heads(self.masks, self.n_heads) if self.masks and self.kind == "encoder" else None
        if windows is not None:
            z = attend_within_windows(q, k, v, windows)
        elif causal and not self.masks and start == 0:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=now.n_query > 1)
        else:
            mask = combine_masks(self.masks, causal, now)
            if mask is not None:
                # the fused kernel wants all four axes of a mask per head: with three it falls back to a slow one
                mask = mask[None] if mask.dim() == 3 else mask
                mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return z.transpose(1, 2), None

    def _attend_explicitly(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = q.shape[-1] ** -0.25
        q, k = rearrange(q, "b q h e -> b h q e") * scale, rearrange(k, "b k h e -> b h e k") * scale
        scores = q @ k
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if mask is not None:
            is_bool = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if is_bool else scores + mask.to(scores.dtype)
        scores = self.hook_attn_scores(scores)  # [batch, head, query, key]
        # only a mask or a hook can leave a query without any key
        softmax = torch.softmax if mask is None and not self.hook_attn_scores.active else _softmax_or_zero
        pattern = self.hook_pattern(softmax(scores, dim=-1).to(v.dtype))  # [batch, head, query, key]
        return einsum(pattern, v, "b h q k, b k h e -> b q h e"), scores


def _softmax_or_zero(scores: Tensor, dim: int) -> Tensor:
    """Softmax where a row of ``-inf`` gives zeros, with finite gradients."""
    dead = (scores == -torch.inf).all(dim, keepdim=True)
    return scores.masked_fill(dead, 0.0).softmax(dim).masked_fill(dead, 0.0)
