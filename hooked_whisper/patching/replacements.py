"""Activations with the patched part taken from the source run, one row per patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import Patch


def patched_rows(
    patches: Sequence[Patch],
    base: Float[Tensor, "1 ..."],
    source: Float[Tensor, "1 ..."],
    point: HookPoint,
    positions: Int[Tensor, "changed"] | None = None,
) -> Float[Tensor, "row ..."]:
    """Return one row per patch (all of one point): ``base`` with the patch's part taken from ``source``.

    positions: return only these, which contain all patched positions (the first axis after ``batch``).

    Raises:
        PatchError: ``base`` and ``source`` have different shapes.
    """
    if base.shape != source.shape:
        raise PatchError(
            f"{point.name}: shape {tuple(base.shape)} in the base run, {tuple(source.shape)} in the source run"
        )
    masks = torch.stack([patch.mask(point, source.shape) for patch in patches]).to(source.device)
    if positions is not None:
        base, source, masks = base[:, positions], source[:, positions], masks[:, positions]
    return torch.where(masks, _replacements(patches, base, source), base)


def _replacements(patches: Sequence[Patch], base: Tensor, source: Tensor) -> Tensor:
    """Return the patched values: the source, or the base with some directions or features of the source."""
    first = patches[0]
    if first.subspaces is not None and all(patch.subspaces is first.subspaces for patch in patches):
        return first.subspaces.replaced(base, source, torch.tensor([patch.part for patch in patches]))
    if all(patch.directions is first.directions and patch.subspaces is None for patch in patches):  # one grid
        return source if first.directions is None else base + first.project(source - base)
    return torch.cat([_replacements([patch], base, source) for patch in patches])
