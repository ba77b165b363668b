"""Stacked weights in the words of TransformerLens: ``W_Q [layer, head, d_model, d_head]``, right-multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.model.attention import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.model.factored_matrix import FactoredMatrix
from hooked_whisper.model.layers import Linear


def head_weight(linear: Linear, n_heads: int) -> Float[Tensor, "head d_model d_head"]:
    """The q, k or v projection per head."""
    return linear.weight.unflatten(0, (n_heads, -1)).mT


def head_bias(linear: Linear, n_heads: int) -> Float[Tensor, "head d_head"]:
    """Its bias per head; zeros where there is none (keys)."""
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return bias.unflatten(0, (n_heads, -1))


class AttentionWeights:
    """Weights of one kind of attention over all blocks of a stack."""

    def attention_modules(self) -> list[Attention]:
        raise NotImplementedError

    def _stack(self, get: Callable[[Attention], Tensor]) -> Tensor:
        return torch.stack([get(attn) for attn in self.attention_modules()])

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack(lambda a: head_weight(a.query, a.n_heads))

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack(lambda a: head_weight(a.key, a.n_heads))

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stack(lambda a: head_weight(a.value, a.n_heads))

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        return self._stack(lambda a: a.out.weight.unflatten(1, (a.n_heads, -1)).permute(1, 2, 0))

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        return self._stack(lambda a: head_bias(a.query, a.n_heads))

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Zeros: Whisper's key projection has no bias."""
        return self._stack(lambda a: head_bias(a.key, a.n_heads))

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        return self._stack(lambda a: head_bias(a.value, a.n_heads))

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        return self._stack(lambda a: a.out.bias)

    @property
    def QK(self) -> FactoredMatrix:
        """``W_Q W_Kᵀ`` per head: ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """``W_V W_O`` per head: ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)


class StackWeights(nn.Module, AttentionWeights):
    """Base of encoder and decoder: their self-attention and MLP weights."""

    blocks: nn.ModuleList

    def _blocks(self) -> Iterable[Block]:
        return (block for block in self.blocks if isinstance(block, Block))

    def attention_modules(self) -> list[Attention]:
        return [block.attn for block in self._blocks()]

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return torch.stack([b.mlp.up.weight.mT for b in self._blocks()])

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        return torch.stack([b.mlp.up.bias for b in self._blocks()])

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        return torch.stack([b.mlp.down.weight.mT for b in self._blocks()])

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        return torch.stack([b.mlp.down.bias for b in self._blocks()])


class CrossWeights(AttentionWeights):
    """Weights of the decoder's cross-attention."""

    def __init__(self, decoder: StackWeights) -> None:
        self._decoder = decoder

    def attention_modules(self) -> list[Attention]:
        return [block.cross_attn for block in self._decoder._blocks()]
