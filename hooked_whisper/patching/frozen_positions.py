"""Encoder blocks of which only some positions may change; the others keep their activations of the base run.

If only the positions of the sound can change, a patch costs about their share of a full pass. What is left out is the
part of its effect that goes through padding, which attends to the sound and is attended to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.model.block import Block
from hooked_whisper.model.encoder import Encoder
from hooked_whisper.model.kernels import fused_attention
from hooked_whisper.patching.split_attention import Heads, queries_keys_values


@dataclass(frozen=True, eq=False)
class Entering:
    """What differs from the base run where patches enter a block: its input, or only its keys or values."""

    x: Float[Tensor, "row free d_model"]
    k: Float[Tensor, "row free head d_head"] | None = None
    v: Float[Tensor, "row free head d_head"] | None = None

    @classmethod
    def cat(cls, parts: Sequence[Entering]) -> Entering:
        """Join patches of one point."""
        x, k, v = (
            torch.cat(tensors) if tensors[0] is not None else None
            for tensors in ([getattr(part, name) for part in parts] for name in ("x", "k", "v"))
        )
        assert x is not None
        return cls(x, k, v)


@dataclass(frozen=True, eq=False)
class FrozenPositions:
    """The encoder of the base run, in which only some positions can change.

    free: these positions.
    resid: the residual that enters each block, and, last, the one that leaves the last block.
    keys, values: of each block.
    """

    encoder: Encoder
    free: Int[Tensor, "free"]
    resid: tuple[Float[Tensor, "1 position d_model"], ...]
    keys: tuple[Heads, ...]
    values: tuple[Heads, ...]

    @classmethod
    def of(cls, encoder: Encoder, base: Mapping[str, Tensor], free: Int[Tensor, "free"]) -> FrozenPositions:
        """Read ``hook_resid_pre`` of all blocks, and ``hook_resid_post`` of the last, from the base run."""
        blocks = range(len(encoder.blocks))
        entering = [base[f"encoder.blocks.{number}.hook_resid_pre"] for number in blocks]
        heads = [queries_keys_values(_block(encoder, number), entering[number]) for number in blocks]
        keys, values = tuple(k for _, k, _ in heads), tuple(v for _, _, v in heads)
        leaving = base[f"encoder.blocks.{len(blocks) - 1}.hook_resid_post"]
        return cls(encoder, free, (*entering, leaving), keys, values)

    @property
    def rows(self) -> int:
        """Patches per batch: their positions fill one window, for which matrix products are fastest."""
        return max(1, self.resid[0].shape[1] // len(self.free))

    def enter(
        self,
        block: int,
        positions: Int[Tensor, "changed"],
        resid: Float[Tensor, "row changed d_model"] | None = None,
        **changed: Float[Tensor, "row changed head d_head"],
    ) -> Entering:
        """Return the input of ``block`` (or only its ``k`` or ``v``), changed at ``positions``, which are free."""
        rows = len(next(iter(changed.values()))) if resid is None else len(resid)
        x = self.resid[block].expand(rows, -1, -1)
        heads = {
            name: of_base[block].transpose(1, 2).expand(rows, -1, -1, -1).index_copy(1, positions, changed[name])
            for name, of_base in (("k", self.keys), ("v", self.values))
            if name in changed
        }
        x = x if resid is None else x.index_copy(1, positions, resid)
        return Entering(x[:, self.free], **{name: of_all[:, self.free] for name, of_all in heads.items()})

    def run(self, block: int, entering: Entering) -> Float[Tensor, "row position d_model"]:
        """Return the residual after the last block."""
        x = entering.x
        for number in range(block, len(self.encoder.blocks)):
            x = self._after(number, entering if number == block else Entering(x))
        return self.resid[-1].expand(len(x), -1, -1).index_copy(1, self.free, x)

    def _after(self, number: int, entering: Entering) -> Float[Tensor, "row free d_model"]:
        block, x = _block(self.encoder, number), entering.x
        q, *computed = queries_keys_values(block, x)
        replaced = (None if t is None else t.transpose(1, 2) for t in (entering.k, entering.v))
        k, v = (
            of_base[number].expand(len(x), -1, -1, -1).index_copy(2, self.free, new if other is None else other)
            for of_base, new, other in zip((self.keys, self.values), computed, replaced, strict=True)
        )
        z = fused_attention(q, k, v)
        return block.from_mid_cross(x + block.attn.out(z.transpose(1, 2).flatten(2)))


def free_positions(n: int, window: int) -> Int[Tensor, "free"]:
    """Return the first ``n`` positions, and further ones up to a divisor of the window.

    Whole batches then have as many positions as one window (:attr:`FrozenPositions.rows`).
    """
    return torch.arange(min(size for size in range(min(n, window), window + 1) if window % size == 0))


def _block(encoder: Encoder, number: int) -> Block:
    block = encoder.blocks[number]
    assert isinstance(block, Block)
    return block
