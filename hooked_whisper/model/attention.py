"""Multi-head attention, self and cross; fused unless a hook sees scores or pattern."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint, StackClock
from hooked_whisper.model.kernels import fused_attention, has_forward_hooks, windowed_attention
from hooked_whisper.model.kv_cache import KVCache
from hooked_whisper.model.layers import Linear
from hooked_whisper.model.masks import AttentionPass, MaskEntry, combine_masks, windows_of_heads
from hooked_whisper.protocols import Stack


class Attention(nn.Module):
    """``softmax(q kᵀ / sqrt(d_head)) v`` per head, then the output projection.

    Return the output, and the pre-softmax scores if they were computed (for openai-whisper's word timing).

    kind: ``"encoder"`` or ``"decoder"`` for self-attention, ``"cross"`` for cross-attention.
    """

    def __init__(self, d_model: int, n_heads: int, kind: Stack) -> None:
        super().__init__()
        query_axis = "position" if kind == "encoder" else "token"
        key_axis = "token" if kind == "decoder" else "position"
        sizes = {"head": n_heads, "d_head": d_model // n_heads, "d_model": d_model}
        counts = {"query": query_axis, "key": key_axis}
        self.kind: Stack = kind
        self.n_heads = n_heads
        self.name = ""
        self.clock = StackClock()
        self.query = Linear(d_model, d_model)
        self.key = Linear(d_model, d_model, bias=False)
        self.value = Linear(d_model, d_model)
        self.hook_q = HookPoint("batch", query_axis, "head", "d_head", sizes=sizes)
        self.hook_k = HookPoint("batch", key_axis, "head", "d_head", sizes=sizes, per_clip=kind == "cross")
        self.hook_v = HookPoint("batch", key_axis, "head", "d_head", sizes=sizes, per_clip=kind == "cross")
        # the encoder's scores and patterns are the bulk of a cache's memory
        cached = kind != "encoder"
        axes = ("batch", "head", "query", "key")
        self.hook_attn_scores = HookPoint(*axes, sizes=sizes, counts=counts, cached_by_default=cached)
        self.hook_pattern = HookPoint(*axes, sizes=sizes, counts=counts, cached_by_default=cached)
        self.hook_z = HookPoint("batch", query_axis, "head", "d_head", sizes=sizes)
        self.hook_result = HookPoint("batch", query_axis, "head", "d_model", sizes=sizes, optional=True)
        self.out = Linear(d_model, d_model)
        self.masks: list[MaskEntry] = []

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles carry neither masks nor hooks
        return {**super().__getstate__(), "masks": []}

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        source: Float[Tensor, "clip key d_model"] | None = None,
        kv_cache: KVCache | None = None,
        head_inputs: dict[str, Float[Tensor, "batch query head d_model"]] | None = None,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """Attend from ``x`` to ``source``, the input of keys and values (default: ``x``).

        head_inputs: ``q``, ``k`` or ``v`` -> tensor to add to the input of each head.
        """
        additions = head_inputs or {}
        q = self.hook_q(self._project(self.query, x, additions.get("q")))  # [batch, query, head, d_head]
        k, v = self._keys_and_values(x if source is None else source, kv_cache, additions)
        z, scores = self._attend(q, k, v)
        z = self.hook_z(z)  # [batch, query, head, d_head]
        out = self.out(z.flatten(2))
        if self.hook_result.active:
            w_out = self.out.weight.to(z.dtype).unflatten(1, (self.n_heads, -1))
            result = einsum(z, w_out, "b q h e, d h e -> b q h d")
            # written as a difference, so that reading leaves every bit of the output unchanged
            out = out + (self.hook_result(result) - result).sum(2)
        return out, scores

    def _project(self, linear: Linear, x: Tensor, addition: Tensor | None) -> Tensor:
        heads = linear(x).unflatten(-1, (self.n_heads, -1))
        if addition is not None:
            weight = linear.weight.to(x.dtype).unflatten(0, (self.n_heads, -1))
            heads = heads + einsum(addition, weight, "b p h d, h e d -> b p h e")
        return heads

    def _keys_and_values(
        self, source: Tensor, kv_cache: KVCache | None, additions: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of all positions so far: cached once in cross-attention, else appended."""
        if kv_cache is not None and self.kind == "cross" and self.key in kv_cache:
            return kv_cache[self.key], kv_cache[self.value]
        k = self.hook_k(self._project(self.key, source, additions.get("k")))  # [batch, key, head, d_head]
        v = self.hook_v(self._project(self.value, source, additions.get("v")))
        if kv_cache is None:
            return k, v
        if self.kind == "cross":
            # contiguous per head, as the fused kernel reads the keys at every token
            k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (k, v))
        return kv_cache.append(self.key, k), kv_cache.append(self.value, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        causal = self.kind == "decoder"
        start = self.clock.offset
        if k.shape[0] != q.shape[0]:  # one clip for many rows of tokens
            k, v = (t.expand(q.shape[0], -1, -1, -1) for t in (k, v))
        this_pass = AttentionPass(
            name=self.name,
            kind=self.kind,
            batch=q.shape[0],
            n_heads=self.n_heads,
            # encoder keys are those of this pass, even if its positions do not begin at 0
            start=0 if self.kind == "encoder" else start,
            n_query=q.shape[1],
            n_key=k.shape[1],
            device=q.device,
        )
        # openai-whisper's word timing reads the scores with a forward hook on this module
        if self.hook_attn_scores.active or self.hook_pattern.active or has_forward_hooks(self):
            return self._attend_explicitly(q, k, v, combine_masks(self.masks, causal, this_pass))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        windows = windows_of_heads(self.masks, self.n_heads) if self.masks and self.kind == "encoder" else None
        if windows is not None:
            z = windowed_attention(q, k, v, windows)
        elif causal and not self.masks and start == 0:
            z = fused_attention(q, k, v, causal=this_pass.n_query > 1)
        else:
            z = fused_attention(q, k, v, combine_masks(self.masks, causal, this_pass))
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
        # only a mask or a hook can leave a query without keys
        softmax = torch.softmax if mask is None and not self.hook_attn_scores.active else _softmax_or_zero
        pattern = self.hook_pattern(softmax(scores, dim=-1).to(v.dtype))  # [batch, head, query, key]
        return einsum(pattern, v, "b h q k, b k h e -> b q h e"), scores

    # --- weights per head, right-multiplied ------------------------------------------------------------------------

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.query.weight.unflatten(0, (self.n_heads, -1)).mT

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return self.key.weight.unflatten(0, (self.n_heads, -1)).mT

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self.value.weight.unflatten(0, (self.n_heads, -1)).mT

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.out.weight.unflatten(1, (self.n_heads, -1)).permute(1, 2, 0)

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        return self.query.bias.unflatten(0, (self.n_heads, -1))

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """Zeros, unless weight processing gave the key projection a bias: Whisper's has none."""
        bias = self.key.weight.new_zeros(self.key.out_features) if self.key.bias is None else self.key.bias
        return bias.unflatten(0, (self.n_heads, -1))

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        return self.value.bias.unflatten(0, (self.n_heads, -1))

    @property
    def b_O(self) -> Float[Tensor, "d_model"]:
        return self.out.bias


def _softmax_or_zero(scores: Tensor, dim: int) -> Tensor:
    """Softmax that gives zeros, and finite gradients, for a row of ``-inf``."""
    dead = (scores == -torch.inf).all(dim, keepdim=True)
    return scores.masked_fill(dead, 0.0).softmax(dim).masked_fill(dead, 0.0)
