"""Patches inside the encoder: compute only what differs from the base run, and share what patches have in common.

A patch at some positions changes only those positions until the next attention. They are computed alone, then the next
block with :class:`~hooked_whisper.patching.split_attention.SplitAttention`; after it every position differs, and the
remaining blocks run in full, ``rows`` patches at a time. The result is that of a full pass, within rounding.

Memory: one batch of rows, and ``2 * SETS + 1`` times the attention output of one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import fused_attention
from hooked_whisper.patching.grid import Patch
from hooked_whisper.patching.replacements import patched_rows
from hooked_whisper.patching.resume import finish_block, locate, n_layers
from hooked_whisper.patching.split_attention import SplitAttention
from hooked_whisper.patching.watching import is_watched

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

SETS = 8  # sets of positions whose attention is split at once

_INPUTS = {"hook_resid_pre": "resid", "attn.hook_k": "k", "attn.hook_v": "v"}
"""Points before a block's attention -> argument of :meth:`SplitAttention.output`."""
_LOCAL = ("attn.hook_q", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_in", "hook_mlp_out")
"""Points where a patch changes the block's output at its own positions only."""

Entered = tuple[list[int], int, Float[Tensor, "row position d_model"]]
"""Numbers of patches, a block, and the residuals that enter it."""


@dataclass(frozen=True, eq=False)
class EncoderSweep:
    """Patches of one run inside the encoder.

    base, source: activations of both runs (:func:`~hooked_whisper.patching.resume.required_activations`).
    rows: patches per batch.
    """

    model: HookedWhisper
    base: Mapping[str, Tensor]
    source: Mapping[str, Tensor]
    rows: int

    def shares_work(self, patch: Patch) -> bool:
        """Whether the patch leaves some positions unchanged, and no hook or mask acts where only some are computed."""
        stack, block = locate(self.model, patch.name)
        if stack != "encoder" or not 0 <= block < n_layers(self.model, stack) or patch.also:
            return False
        end = _end(patch.name)
        if not (end in _INPUTS or end in _LOCAL or end.startswith(("hook_resid_post", "mlp.", "ln2."))):
            return False
        if any(is_watched(layer) for layer in self.model.encoder.blocks[block : block + 2]):
            return False
        return not bool(self._changed(patch).all())

    def outputs(self, patches: Sequence[Patch]) -> Iterator[tuple[list[int], Float[Tensor, "row position d_model"]]]:
        """Yield encoder outputs with the numbers of their patches, which are all of one point."""
        numbers: list[int] = []
        waiting: list[Tensor] = []
        left = len(patches)
        for batch, block, x in self._entered(patches):
            numbers += batch
            waiting.append(x)
            left -= len(batch)
            if len(numbers) >= self.rows or not left:
                yield numbers, self.model.encoder.from_resid(torch.cat(waiting), block)
                numbers, waiting = [], []

    def _entered(self, patches: Sequence[Patch]) -> Iterator[Entered]:
        """Yield the residuals that enter the first block whose input differs at every position."""
        by_positions: dict[tuple[bool, ...], list[int]] = {}
        for number, patch in enumerate(patches):
            by_positions.setdefault(tuple(self._changed(patch).tolist()), []).append(number)
        sets = list(by_positions)
        for start in range(0, len(sets), SETS):
            chunk = [torch.tensor(positions, device=self.model.device) for positions in sets[start : start + SETS]]
            split = self._split(patches[0].name, chunk)
            for k, in_set in enumerate(chunk):
                of_set = by_positions[sets[start + k]]
                for first in range(0, len(of_set), self.rows):
                    batch = of_set[first : first + self.rows]
                    yield batch, *self._enter([patches[i] for i in batch], split, k, in_set)

    def _split(self, name: str, sets: Sequence[Bool[Tensor, "position"]]) -> SplitAttention | None:
        """Split the first attention that reads the patched positions; ``None`` if there is none."""
        _, number = locate(self.model, name)
        before = _end(name) in _INPUTS
        number = number if before else number + 1
        if number == n_layers(self.model, "encoder"):
            return None
        resid = self.base[f"encoder.blocks.{number}.hook_resid_pre" if before else _residual_after(number - 1)]
        return SplitAttention.of(self._block(number), resid, sets)

    def _enter(
        self, patches: Sequence[Patch], split: SplitAttention | None, set_number: int, in_set: Bool[Tensor, "position"]
    ) -> tuple[int, Float[Tensor, "row position d_model"]]:
        """Return the next block, and its input."""
        name, positions = patches[0].name, in_set.nonzero()[:, 0]
        _, number = locate(self.model, name)
        values = patched_rows(patches, self.base[name], self.source[name], self.model.hook_dict[name], positions)
        if _end(name) in _INPUTS:
            assert split is not None  # the block itself has attention
            return number + 1, split.output(set_number, positions, **{_INPUTS[_end(name)]: values})
        resid = self._after_block(name, values, positions)
        if split is None:
            unpatched = self.base[_residual_after(number)].expand(len(patches), -1, -1)
            return number + 1, unpatched.index_copy(1, positions, resid)
        return number + 2, split.output(set_number, positions, resid)

    def _after_block(
        self, name: str, values: Float[Tensor, "row changed ..."], positions: Tensor
    ) -> Float[Tensor, "row changed d_model"]:
        """Return the residual after the patched block, at the changed positions."""
        _, number = locate(self.model, name)
        path = f"encoder.blocks.{number}"
        if _end(name) == "attn.hook_q":
            k, v = (self.base[f"{path}.attn.hook_{part}"].expand(len(values), -1, -1, -1) for part in "kv")
            z = fused_attention(*(t.transpose(1, 2) for t in (values, k, v)))
            name, values = f"{path}.attn.hook_z", z.transpose(1, 2)
        ends = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
        base = {f"{path}.{end}": self.base[f"{path}.{end}"][:, positions] for end in ends}
        return finish_block(self.model, base, {name: values}, path, None, None)

    def _changed(self, patch: Patch) -> Bool[Tensor, "position"]:
        """Return the positions that the patch replaces."""
        mask = patch.mask(self.model.hook_dict[patch.name], self.base[patch.name].shape)
        return mask.flatten(1).any(1)

    def _block(self, number: int) -> Block:
        block = self.model.encoder.blocks[number]
        assert isinstance(block, Block)
        return block


def _end(name: str) -> str:
    return name.split(".", 3)[-1]


def _residual_after(block: int) -> str:
    return f"encoder.blocks.{block}.hook_resid_post"
