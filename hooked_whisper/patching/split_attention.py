"""Self-attention when few positions change: the part over the other keys comes from the base run.

Attention over all keys is a weighted sum of attention over disjoint sets of keys; the weights are their sums of
exponentials. Queries at unchanged positions are those of the base run, so their part over unchanged keys is computed
once for all patches of a span; a patch adds the part over its changed keys. Spans share the parts between them.

Source: the split keys of flash decoding (Dao et al. 2023), with online softmax (Milakov & Gimelshein 2018,
arXiv 1805.02867).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import attention_part, fused_attention

Heads = Float[Tensor, "_row head _pos d_head"]


class AttentionPart(NamedTuple):
    """Attention over some of the keys, and the logarithm of the sum of its exponentials."""

    z: Float[Tensor, "batch head query d_head"]
    log_sum: Float[Tensor, "batch head query"]


@dataclass(frozen=True, eq=False)
class SplitAttention:
    """The base run of one encoder block, and its attention to the keys outside of each of several sets of positions.

    resid: the residual that enters the block.
    outside: per set, attention of all queries to the keys outside of it.
    """

    block: Block
    resid: Float[Tensor, "1 position d_model"]
    q: Float[Tensor, "1 head position d_head"]
    k: Float[Tensor, "1 head position d_head"]
    v: Float[Tensor, "1 head position d_head"]
    outside: tuple[AttentionPart, ...]

    @classmethod
    def of(
        cls,
        block: Block,
        resid: Float[Tensor, "1 position d_model"],
        sets: Sequence[Bool[Tensor, "position"]],
    ) -> SplitAttention:
        """Split the block's attention. No set may contain all positions.

        Costs about one attention for all sets together.
        """
        q, k, v = queries_keys_values(block, resid)
        members, atom_of = torch.stack(list(sets)).unique(dim=1, return_inverse=True)  # [set, atom], [position]
        atoms = [(atom_of == number).nonzero()[:, 0] for number in range(members.shape[1])]
        parts = [AttentionPart(*attention_part(q, k[:, :, keys], v[:, :, keys])) for keys in atoms]
        outside = tuple(
            merge([part for part, member in zip(parts, in_set, strict=True) if not member]) for in_set in members
        )
        return cls(block, resid, q, k, v, outside)

    def output(
        self,
        number: int,
        positions: Int[Tensor, "changed"],
        resid: Float[Tensor, "row changed d_model"] | None = None,
        **changed: Float[Tensor, "row changed head d_head"],
    ) -> Float[Tensor, "row position d_model"]:
        """Return the block's output, with its input ``resid`` (or only ``k`` or ``v``) changed in set ``number``."""
        rows = len(next(iter(changed.values()))) if resid is None else len(resid)
        x = self.resid.expand(rows, -1, -1)
        heads: dict[str, Heads] = {name: values.transpose(1, 2) for name, values in changed.items()}
        if resid is not None:
            x = x.index_copy(1, positions, resid)
            heads = dict(zip("qkv", queries_keys_values(self.block, resid), strict=True))
        z = self._attend(number, positions, rows, heads)
        return self.block.from_mid_cross(x + self.block.attn.out(z.transpose(1, 2).flatten(2)))

    def _attend(
        self, number: int, positions: Int[Tensor, "changed"], rows: int, heads: dict[str, Heads]
    ) -> Float[Tensor, "row head position d_head"]:
        new_k, new_v = (
            heads[name] if name in heads else of_base[:, :, positions].expand(rows, -1, -1, -1)
            for name, of_base in (("k", self.k), ("v", self.v))
        )
        q, k, v = (t.expand(rows, -1, -1, -1) for t in (self.q, self.k, self.v))
        z = merge([self.outside[number], AttentionPart(*attention_part(q, new_k, new_v))]).z
        if "q" in heads:
            all_k, all_v = k.index_copy(2, positions, new_k), v.index_copy(2, positions, new_v)
            z = z.index_copy(2, positions, fused_attention(heads["q"], all_k, all_v))
        return z


def merge(parts: Sequence[AttentionPart]) -> AttentionPart:
    """Return the attention over all keys of ``parts``, which have no key in common."""
    merged = parts[0]
    for part in parts[1:]:
        weight = (part.log_sum - merged.log_sum).sigmoid()[..., None].to(part.z.dtype)
        log_sum = torch.logaddexp(merged.log_sum, part.log_sum)
        merged = AttentionPart(torch.lerp(merged.z, part.z, weight), log_sum)
    return merged


def queries_keys_values(block: Block, resid: Float[Tensor, "_row _pos d_model"]) -> tuple[Heads, Heads, Heads]:
    """Return queries, keys and values of a block's self-attention, without hooks."""
    attn = block.attn
    normed = block.ln1(resid)
    q, k, v = (
        linear(normed).unflatten(-1, (attn.n_heads, -1)).transpose(1, 2)
        for linear in (attn.query, attn.key, attn.value)
    )
    return q, k, v
