"""One decoding step without modules and hook points, for passes in which nobody listens.

It runs the same kernels on the same tensors in the same order as the blocks, so every bit of output and cache is equal.
Calling the modules of ``tiny``'s decoder takes longer on a CPU than reading their weights.
"""

from __future__ import annotations

from itertools import chain, repeat
from operator import attrgetter, contains, is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_whisper.hooks import HookPoint
from hooked_whisper.model.attention import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import (
    FEW_ROWS,
    few_rows_linear,
    fused_attention,
    gelu,
    globally_hooked,
    hook_dicts,
    layer_norm,
    linear,
    overwritable,
    scale_and_shift,
)
from hooked_whisper.model.kv_cache import KVCache
from hooked_whisper.model.layers import MLP, LayerNorm, Linear

if TYPE_CHECKING:
    from hooked_whisper.model.decoder import Decoder

_CLASSES = frozenset({Block, Attention, LayerNorm, MLP, Linear, HookPoint, nn.ModuleList, nn.Embedding})


class BlockWeights(NamedTuple):
    """Weights and biases of one block."""

    ln1: tuple[Tensor, Tensor, float]
    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None]
    out: tuple[Tensor, Tensor | None]
    ln_cross: tuple[Tensor, Tensor, float]
    cross_query: tuple[Tensor, Tensor | None]
    cross_out: tuple[Tensor, Tensor | None]
    ln2: tuple[Tensor, Tensor, float]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    caches: tuple[nn.Module, nn.Module, nn.Module, nn.Module]  # keys of the cache: self-attention, cross-attention

    @classmethod
    def of(cls, block: Any) -> BlockWeights:
        attn, cross, mlp = block.attn, block.cross_attn, block.mlp
        caches = attn.key, attn.value, cross.key, cross.value
        layers = (attn.query, attn.key, attn.value, attn.out, cross.query, cross.out, mlp.up, mlp.down)
        query, key, value, out, cross_query, cross_out, up, down = ((layer.weight, layer.bias) for layer in layers)
        ln1, ln_cross, ln2 = map(_norm_weights, (block.ln1, block.ln_cross, block.ln2))
        return cls(ln1, query, key, value, out, ln_cross, cross_query, cross_out, ln2, up, down, caches)


class StepPlan:
    """The weights that a step reads, and everything that could read or change it: hooks, masks, replaced modules.

    Made once per decoding, because walking the modules takes as long as several blocks of a step.
    """

    def __init__(self, decoder: Decoder) -> None:
        modules = [module for part in _parts(decoder) for module in part.modules()]
        points = [module for module in modules if isinstance(module, HookPoint)]
        attention: list[Any] = [attn for block in decoder.blocks for attn in (block.attn, block.cross_attn)]
        dtypes = {parameter.dtype for module in modules for parameter in module.parameters(recurse=False)}
        self.decoder = decoder
        self.ordinary = len(dtypes) == 1 and all(type(module) in _CLASSES for module in modules)
        self._points = points
        self._attributes = [vars(module) for module in modules]
        self._listening: list[Any] = [hooks for module in modules for hooks in hook_dicts(module)]
        self._listening += [hooks for point in points for hooks in (point._fwd, point._bwd, point._readers)]
        self._listening += [attn.masks for attn in attention] + [block.entry_listeners for block in decoder.blocks]
        slots: Any = (slots for module in (decoder, *modules) for slots in (module._modules, module._parameters))
        self._slots: list[dict[str, Any]] = [filled for filled in slots if filled]
        self._contents = self._now()
        if self.ordinary:
            self.blocks = [BlockWeights.of(block) for block in decoder.blocks]
            self.ln_final = _norm_weights(decoder.ln_final)
            self.n_heads = decoder.cfg.n_heads

    def holds(self, decoder: Decoder) -> bool:
        """Return whether the decoder still has these modules and parameters."""
        return decoder is self.decoder and all(map(is_, self._now(), self._contents))

    def silent(self) -> bool:
        """Return whether nothing listens, and the modules are those of the package."""
        if not self.ordinary or globally_hooked() or any(self._listening):
            return False
        replaced = any(map(contains, self._attributes, repeat("forward")))
        return not replaced and not any(map(attrgetter("_replacement"), self._points))

    def _now(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._slots)))


def _parts(decoder: Decoder) -> list[nn.Module]:
    return [child for name, child in decoder.named_children() if name != "unembed"]  # which follows the step


def _norm_weights(norm: LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def runs_as_step(decoder: Decoder, tokens: Tensor, dtype: torch.dtype, kv_cache: KVCache) -> bool:
    """Return whether the pass is one new token per row after cached ones, and nobody listens in the decoder.

    Hooks, caches, attached SAEs, masks, gradients, hooks of torch and replaced modules count as listening.
    """
    if tokens.shape[-1] != 1 or not overwritable() or decoder.positional_embedding.dtype != dtype:
        return False
    if torch.is_autocast_enabled(tokens.device.type) or len(kv_cache) < 4 * len(decoder.blocks):
        return False
    plan = kv_cache.plan
    if plan is None or not plan.holds(decoder):
        plan = kv_cache.plan = StepPlan(decoder)
    return plan.silent()


def step(
    decoder: Decoder, tokens: Int[Tensor, "batch 1"], start: int, kv_cache: KVCache
) -> Float[Tensor, "batch 1 d_model"]:
    """Return the residual after the final norm, and append the keys and values of the new tokens to the cache.

    start: index of the new tokens.
    """
    plan, embedding = kv_cache.plan, decoder.token_embedding.weight
    assert plan is not None
    x = F.embedding(tokens, embedding) + decoder.positional_embedding[start : start + 1]
    # the kernel depends on the size of a weight: decided once for attention and once for the MLP
    few, samples = len(tokens) <= FEW_ROWS, (plan.blocks[0].query[0], plan.blocks[0].up[0])
    product, wide_product = (few_rows_linear(x, weight) if few else linear for weight in samples)
    by_head = (len(tokens), 1, plan.n_heads, -1)

    def attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if len(keys) != len(q):  # one clip for many rows of tokens
            keys, values = (t.expand(len(q), -1, -1, -1) for t in (keys, values))
        z = fused_attention(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))
        return z.transpose(1, 2).flatten(2)

    for block in plan.blocks:
        key, value, cross_key, cross_value = block.caches
        normed = _norm(x, *block.ln1)
        q = product(normed, *block.query).view(by_head)
        keys = kv_cache.append(key, product(normed, *block.key).view(by_head))
        values = kv_cache.append(value, product(normed, *block.value).view(by_head))
        x = x + product(attention(q, keys, values), *block.out)
        q = product(_norm(x, *block.ln_cross), *block.cross_query).view(by_head)
        x = x + product(attention(q, kv_cache[cross_key], kv_cache[cross_value]), *block.cross_out)
        hidden = gelu(wide_product(_norm(x, *block.ln2), *block.up), overwrite=True)
        x = x + wide_product(hidden, *block.down)
    return _norm(x, *plan.ln_final)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The layer norm with float32 statistics, as :class:`LayerNorm` computes it."""
    if x.dtype in (torch.float32, torch.float64):
        return scale_and_shift(layer_norm(x, eps)[0], weight, bias, overwrite=True)
    return scale_and_shift(layer_norm(x.float(), eps)[0], weight.float(), bias.float(), overwrite=True).to(x.dtype)
