"""Patches inside the encoder: compute only what differs from the base run, and share what patches have in common.

A patch at some positions changes only those positions until the next attention. They are computed alone, then the next
block with :class:`~hooked_whisper.patching.split_attention.SplitAttention`; after it every position differs, and the
remaining blocks run in full, ``rows`` patches at a time. The result is that of a full pass, within rounding.

Memory: one batch of rows, and ``2 * SETS + 1`` times the attention output of one block. With
:class:`~hooked_whisper.patching.frozen_positions.FrozenPositions`, which are not exact, keys and values of every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import fused_attention
from hooked_whisper.patching.frozen_positions import Entering, FrozenPositions
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

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class _Change:
    """What patches of the same positions change in the first attention that reads them.

    numbers: of the patches.
    values: ``resid``, the input of the block, or only its ``k`` or ``v``, at ``positions``.
    """

    numbers: list[int]
    positions: Int[Tensor, "changed"]
    values: dict[str, Float[Tensor, "row changed ..."]]


@dataclass(frozen=True, eq=False)
class EncoderSweep:
    """Patches of one run inside the encoder.

    base, source: activations of both runs (:func:`~hooked_whisper.patching.resume.required_activations`).
    rows: patches per batch.
    frozen: what to run after the patched block in place of the exact computation.
    """

    model: HookedWhisper
    base: Mapping[str, Tensor]
    source: Mapping[str, Tensor]
    rows: int
    frozen: FrozenPositions | None = None

    def shares_work(self, patch: Patch) -> bool:
        """Whether the patch leaves some positions unchanged, and no hook or mask acts where only some are computed."""
        stack, block = locate(self.model, patch.name)
        if stack != "encoder" or not 0 <= block < n_layers(self.model, stack) or patch.also:
            return False
        end = _end(patch.name)
        if not (end in _INPUTS or end in _LOCAL or end.startswith(("hook_resid_post", "mlp.", "ln2."))):
            return False
        if any(
            isinstance(layer, Block) and is_watched(layer) for layer in self.model.encoder.blocks[block : block + 2]
        ):
            return False
        return not bool(self.changed(patch).all())

    def outputs(self, patches: Sequence[Patch]) -> Iterator[tuple[list[int], Float[Tensor, "row position d_model"]]]:
        """Yield encoder outputs with the numbers of their patches, which are all of one point."""
        if not patches:
            return
        name, encoder, last = patches[0].name, self.model.encoder, n_layers(self.model, "encoder")
        reader = locate(self.model, name)[1] + (_end(name) not in _INPUTS)  # the first attention that reads the patches
        if reader == last:
            leaving = ((change.numbers, self._leaving(name, change)) for change in self._changes(patches, self.rows))
            for numbers, parts in collected(leaving, self.rows):
                yield numbers, encoder.from_resid(torch.cat(parts), last)
        elif self.frozen is None:
            for numbers, parts in collected(self._after(reader, patches), self.rows):
                yield numbers, encoder.from_resid(torch.cat(parts), reader + 1)
        else:
            frozen = self.frozen
            entering = (
                (change.numbers, frozen.enter(reader, change.positions, **change.values))
                for change in self._changes(patches, 1)
            )
            for numbers, inputs in collected(entering, frozen.rows):
                yield numbers, encoder.from_resid(frozen.run(reader, Entering.cat(inputs)), last)

    def _after(
        self, number: int, patches: Sequence[Patch]
    ) -> Iterator[tuple[list[int], Float[Tensor, "row position d_model"]]]:
        """Yield the residual after block ``number``, whose attention is the first to read the patches."""
        before = _end(patches[0].name) in _INPUTS
        resid = self.base[f"encoder.blocks.{number}.hook_resid_pre" if before else _residual_after(number - 1)]
        block = self.model.encoder.blocks[number]
        assert isinstance(block, Block)
        changes = list(self._positions_of(patches).items())
        for start in range(0, len(changes), SETS):
            chunk = dict(changes[start : start + SETS])
            split = SplitAttention.of(block, resid, [torch.tensor(in_set, device=resid.device) for in_set in chunk])
            for set_number, (in_set, numbers) in enumerate(chunk.items()):
                for change in self._changes_of(patches, in_set, numbers, self.rows):
                    yield change.numbers, split.output(set_number, change.positions, **change.values)

    def _leaving(self, name: str, change: _Change) -> Float[Tensor, "row position d_model"]:
        """Return the residual after the last block, in which no other position changes."""
        unpatched = self.base[_residual_after(locate(self.model, name)[1])]
        return unpatched.expand(len(change.numbers), -1, -1).index_copy(1, change.positions, change.values["resid"])

    def _positions_of(self, patches: Sequence[Patch]) -> dict[tuple[bool, ...], list[int]]:
        """Return each set of patched positions, and the numbers of its patches."""
        sets: dict[tuple[bool, ...], list[int]] = {}
        for number, patch in enumerate(patches):
            sets.setdefault(tuple(self.changed(patch).tolist()), []).append(number)
        return sets

    def _changes(self, patches: Sequence[Patch], rows: int) -> Iterator[_Change]:
        for in_set, numbers in self._positions_of(patches).items():
            yield from self._changes_of(patches, in_set, numbers, rows)

    def _changes_of(
        self, patches: Sequence[Patch], in_set: tuple[bool, ...], numbers: Sequence[int], rows: int
    ) -> Iterator[_Change]:
        name = patches[0].name
        positions = torch.tensor(in_set, device=self.model.device).nonzero()[:, 0]
        for start in range(0, len(numbers), rows):
            batch = list(numbers[start : start + rows])
            values = patched_rows(
                [patches[number] for number in batch],
                self.base[name],
                self.source[name],
                self.model.hook_dict[name],
                positions,
            )
            if _end(name) in _INPUTS:
                yield _Change(batch, positions, {_INPUTS[_end(name)]: values})
            else:
                yield _Change(batch, positions, {"resid": self._after_block(name, values, positions)})

    def _after_block(
        self, name: str, values: Float[Tensor, "row changed ..."], positions: Tensor
    ) -> Float[Tensor, "row changed d_model"]:
        """Return the residual after the patched block, at the changed positions."""
        _, number = locate(self.model, name)
        path = f"encoder.blocks.{number}"
        if _end(name) == "attn.hook_q":
            k, v = (self.base[f"{path}.attn.hook_{part}"].expand(len(values), -1, -1, -1) for part in "kv")
            z = fused_attention(values.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            name, values = f"{path}.attn.hook_z", z.transpose(1, 2)
        ends = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
        base = {f"{path}.{end}": self.base[f"{path}.{end}"][:, positions] for end in ends}
        return finish_block(self.model, base, {name: values}, path, None, None)

    def changed(self, patch: Patch) -> Bool[Tensor, "position"]:
        """Return the positions that the patch replaces."""
        mask = patch.mask(self.model.hook_dict[patch.name], self.base[patch.name].shape)
        return mask.flatten(1).any(1)


def collected(items: Iterable[tuple[list[int], Part]], size: int) -> Iterator[tuple[list[int], list[Part]]]:
    """Collect numbered items until they have at least ``size`` numbers; yield all numbers, and the items."""
    numbers: list[int] = []
    parts: list[Part] = []
    for batch, part in items:
        numbers += batch
        parts.append(part)
        if len(numbers) >= size:
            yield numbers, parts
            numbers, parts = [], []
    if numbers:
        yield numbers, parts


def _end(name: str) -> str:
    return name.split(".", 3)[-1]


def _residual_after(block: int) -> str:
    return f"encoder.blocks.{block}.hook_resid_post"
