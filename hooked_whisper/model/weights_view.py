"""Weights of a whole stack under TransformerLens' names: ``W_Q [layer, head, d_model, d_head]``, right-multiplied.

Each block has views of its weights: ``model.encoder.blocks[0].attn.W_Q``, ``.mlp.W_in``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.errors import ArgumentError
from hooked_whisper.model.attention import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.model.factored_matrix import FactoredMatrix


class AttentionWeights(ABC):
    """Weights of one kind of attention over all blocks of a stack."""

    @abstractmethod
    def attention_modules(self) -> list[Attention]:
        """Return the attention of each block."""

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        return torch.stack([attn.W_Q for attn in self.attention_modules()])

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        return torch.stack([attn.W_K for attn in self.attention_modules()])

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        return torch.stack([attn.W_V for attn in self.attention_modules()])

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        return torch.stack([attn.W_O for attn in self.attention_modules()])

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        return torch.stack([attn.b_Q for attn in self.attention_modules()])

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Zeros: Whisper's key projection has no bias."""
        return torch.stack([attn.b_K for attn in self.attention_modules()])

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        return torch.stack([attn.b_V for attn in self.attention_modules()])

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        return torch.stack([attn.b_O for attn in self.attention_modules()])

    @property
    def QK(self) -> FactoredMatrix:
        """``W_Q W_Kᵀ`` per head: ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """``W_V W_O`` per head: ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)


class BlockStack(nn.Module, AttentionWeights):
    """Base of encoder and decoder: blocks, and their self-attention and MLP weights."""

    blocks: nn.ModuleList

    def block_list(self) -> list[Block]:
        """Return the blocks as a typed list."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def attention_modules(self) -> list[Attention]:
        """Return the self-attention of each block."""
        return [block.attn for block in self.block_list()]

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return torch.stack([block.mlp.W_in for block in self.block_list()])

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        return torch.stack([block.mlp.b_in for block in self.block_list()])

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        return torch.stack([block.mlp.W_out for block in self.block_list()])

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        return torch.stack([block.mlp.b_out for block in self.block_list()])

    def accumulated_bias(
        self, layer: int, *, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """Return the sum of the output biases of the blocks below ``layer``: self- and cross-attention, and MLPs.

        mlp_input: also those of the attention in block ``layer``.
        """
        blocks = self.block_list()
        if not 0 <= layer <= len(blocks) - mlp_input:
            raise ArgumentError(f"layer must be 0 to {len(blocks) - mlp_input}, not {layer!r}")
        biases = [blocks[0].attn.b_O.new_zeros(blocks[0].attn.b_O.shape)]
        for number, block in enumerate(blocks[: layer + mlp_input]):
            biases.append(block.attn.b_O)
            if block.cross:
                biases.append(block.cross_attn.b_O)
            if include_mlp_biases and number < layer:
                biases.append(block.mlp.b_out)
        return torch.stack(biases).sum(0)


class CrossWeights(AttentionWeights):
    """Weights of the decoder's cross-attention."""

    def __init__(self, decoder: BlockStack) -> None:
        self._decoder = decoder

    def attention_modules(self) -> list[Attention]:
        """Return the cross-attention of each block."""
        return [block.cross_attn for block in self._decoder.block_list()]
