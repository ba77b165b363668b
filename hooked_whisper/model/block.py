"""One transformer block, of either stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint
from hooked_whisper.model.attention import Attention, KVCache
from hooked_whisper.model.layers import MLP, LayerNorm


class Block(nn.Module):
    """``x + attn(ln1(x))``, then cross-attention in the decoder, then ``x + mlp(ln2(x))``."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int, cross: bool) -> None:
        super().__init__()
        axes = ("batch", "token" if cross else "position")
        sizes = {"d_model": d_model, "head": n_heads}
        self.hook_resid_pre = HookPoint(*axes, "d_model", sizes=sizes)
        self.hook_q_input = HookPoint(*axes, "head", "d_model", sizes=sizes, optional=True)
        self.hook_k_input = HookPoint(*axes, "head", "d_model", sizes=sizes, optional=True)
        self.hook_v_input = HookPoint(*axes, "head", "d_model", sizes=sizes, optional=True)
        self.ln1 = LayerNorm(d_model, *axes)
        self.attn = Attention(d_model, n_heads, "decoder" if cross else "encoder")
        self.hook_attn_out = HookPoint(*axes, "d_model", sizes=sizes, aliases=(".attn",))
        self.hook_resid_mid = HookPoint(*axes, "d_model", sizes=sizes)
        self.cross = cross
        if cross:
            self.hook_cross_attn_in = HookPoint(*axes, "d_model", sizes=sizes)
            self.ln_cross = LayerNorm(d_model, *axes)
            self.cross_attn = Attention(d_model, n_heads, "cross")
            self.hook_cross_attn_out = HookPoint(*axes, "d_model", sizes=sizes, aliases=(".cross_attn",))
            self.hook_resid_mid_cross = HookPoint(*axes, "d_model", sizes=sizes)
        self.hook_mlp_in = HookPoint(*axes, "d_model", sizes=sizes)
        self.ln2 = LayerNorm(d_model, *axes)
        self.mlp = MLP(d_model, d_mlp, *axes)
        self.hook_mlp_out = HookPoint(*axes, "d_model", sizes=sizes, aliases=(".mlp", ".mlp.2"))
        self.hook_resid_post = HookPoint(*axes, "d_model", sizes=sizes, aliases=(".",))
        self.entry_listeners: list[Callable[..., None]] = []  # of attached crosscoders: they run blocks ahead

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles carry no attached crosscoders
        return {**super().__getstate__(), "entry_listeners": []}

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        source: Float[Tensor, "clip key d_model"] | None = None,
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        for listen in self.entry_listeners:
            listen(x, source, kv_cache)
        return self.from_pre(self.hook_resid_pre(x), source, kv_cache)  # [batch, pos, d_model]

    def from_pre(
        self,
        x: Float[Tensor, "batch pos d_model"],
        source: Float[Tensor, "clip key d_model"] | None = None,
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Run the block from the output of ``hook_resid_pre``. ``from_*`` methods resume a pass inside the block."""
        head_inputs = self._head_inputs(x)
        attn_out, _ = self.attn(self.ln1(x), kv_cache=kv_cache, head_inputs=head_inputs)
        x = self.hook_resid_mid(x + self.hook_attn_out(attn_out))  # [batch, pos, d_model]
        return self.from_mid(x, source, kv_cache)

    def from_mid(
        self,
        x: Float[Tensor, "batch pos d_model"],
        source: Float[Tensor, "clip key d_model"] | None = None,
        kv_cache: KVCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Run the rest of the block from the output of ``hook_resid_mid``."""
        if not self.cross:
            return self.from_mid_cross(x)
        cross_in = self.ln_cross(self.hook_cross_attn_in(x))
        cross_out, _ = self.cross_attn(cross_in, source, kv_cache=kv_cache)
        return self.from_mid_cross(self.hook_resid_mid_cross(x + self.hook_cross_attn_out(cross_out)))

    def from_mid_cross(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Run the MLP and the rest of the block from the output of ``hook_resid_mid_cross`` (decoder) or
        ``hook_resid_mid`` (encoder)."""
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(self.hook_mlp_in(x))))
        return self.hook_resid_post(x + mlp_out)  # [batch, pos, d_model]

    def _head_inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return what hooks on the split inputs add to each head's normalized input (zero if they change nothing)."""
        points = {"q": self.hook_q_input, "k": self.hook_k_input, "v": self.hook_v_input}
        active = {key: point for key, point in points.items() if point.active}
        if not active:
            return {}
        per_head = x.unsqueeze(2).expand(-1, -1, self.attn.n_heads, -1)
        plain = self.ln1.unhooked(per_head)
        return {key: self.ln1.unhooked(point(per_head)) - plain for key, point in active.items()}
