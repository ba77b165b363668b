"""The decoder over new encoder outputs, for few tokens: cross-attention without keys and values of all positions.

``q · (x W_K)`` equals ``(q W_Kᵀ) · x``. With few queries, projecting those instead of every position saves most of the
work: for ``n`` tokens, ``4 n n_heads d_model`` operations a position and block in place of ``4 d_model²``. The same
holds for values. As in the absorbed projections of DeepSeek-V2 (2024, arXiv 2405.04434).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model import Attention
from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import recurring_linear
from hooked_whisper.patching.watching import is_watched

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper


def decode_over(
    model: HookedWhisper,
    resid: Float[Tensor, "1 token d_model"],
    encoded: Float[Tensor, "row position d_model"],
    read_tokens: Sequence[int] | None = None,
) -> Float[Tensor, "row token d_model"]:
    """Run the decoder from the residual that enters it, over rows of encoder output. Return the last hidden state.

    A block in which a hook or mask acts runs as usual, and so do all if there are many tokens.

    read_tokens: indices of tokens whose hidden state is needed (default: all). The others may be wrong.
    """
    decoder = model.decoder
    x = resid.expand(len(encoded), -1, -1)
    n_tokens = resid.shape[1]
    few = n_tokens < model.cfg.decoder.d_head and encoded.dtype in (torch.float32, torch.float64)
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        if few and not is_watched(block):
            x = x + block.attn(block.ln1(x))[0]
            last = number == len(decoder.blocks) - 1
            tokens = torch.tensor(
                list(read_tokens) if last and read_tokens is not None else range(n_tokens), device=x.device
            )
            mid = x[:, tokens]
            out = block.from_mid_cross(mid + cross_attend(block.cross_attn, block.ln_cross(mid), encoded))
            x = x.index_copy(1, tokens, out)
        elif number == 0 and not block.entry_listeners:  # hooks on its input have acted in the base run
            x = block.from_pre(x, encoded)
        else:
            x = block(x, encoded)
    return decoder.ln_final(x)


def cross_attend(
    attn: Attention, x: Float[Tensor, "row token d_model"], encoded: Float[Tensor, "row position d_model"]
) -> Float[Tensor, "row token d_model"]:
    """Return the output of cross-attention. A key bias is left out: it adds the same to every score of a query."""
    n, d = x.shape[1:]
    heads = (attn.n_heads, d // attn.n_heads)
    q = attn.query(x).unflatten(-1, heads) * heads[1] ** -0.5
    read = torch.einsum("rnhe,hed->rnhd", q, attn.key.weight.unflatten(0, heads))  # the direction each query reads
    mixed = torch.stack([_attend(*row) for row in zip(read.flatten(1, 2), encoded, strict=True)])
    mixed = mixed.unflatten(1, (n, attn.n_heads))
    z = torch.einsum("rnhd,hed->rnhe", mixed, attn.value.weight.unflatten(0, heads)).flatten(2)
    return attn.out(z if attn.value.bias is None else z + attn.value.bias)


def _attend(
    read: Float[Tensor, "query d_model"], encoded: Float[Tensor, "position d_model"]
) -> Float[Tensor, "query d_model"]:
    pattern = recurring_linear(read, encoded).softmax(-1)  # [query, position]
    return recurring_linear(pattern, encoded.mT)
