"""The layout of an SAE's vectors in the tensor of a hook point, and the positions where the SAE replaces them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import PatchError
from hooked_whisper.hooks.hook_point import HookPoint

VECTOR_AXES = ("d_model", "d_mlp", "d_head", "vocab")


@dataclass(frozen=True)
class VectorLayout:
    """Vectors along the last axis, or along the last two if the heads are concatenated.

    axes: the axes before the vector. width: of the vector. heads: number of concatenated heads, if any.
    """

    axes: tuple[str, ...]
    width: int
    heads: int | None = None

    def vectors(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "*lead width"]:
        """Return the point's tensor as vectors."""
        return x if self.heads is None else x.flatten(-2)

    def tensor(self, vectors: Shaped[Tensor, "*lead width"]) -> Shaped[Tensor, "..."]:
        """Return vectors in the shape of the point's tensor."""
        return vectors if self.heads is None else vectors.unflatten(-1, (self.heads, -1))


def layouts(point: HookPoint) -> tuple[VectorLayout, ...]:
    """Return the possible layouts of a point; none for scores, patterns, tokens and mels."""
    last = point.axes[-1]
    if last not in VECTOR_AXES:
        return ()
    width = point.sizes[last]
    per_vector = VectorLayout(point.axes[:-1], width)
    if point.axes[-2:-1] != ("head",):
        return (per_vector,)
    heads = point.sizes["head"]
    return VectorLayout(point.axes[:-2], width * heads, heads), per_vector


def fitting_layout(point: HookPoint, fits: Callable[[VectorLayout], bool], requirement: str) -> VectorLayout:
    """Return the layout of the point that fits.

    Raises:
        PatchError: no layout fits; the message names the point, its axes and widths, and the requirement.
    """
    candidates = layouts(point)
    if not candidates:
        ends = ", ".join(VECTOR_AXES)
        raise PatchError(f"{point.described()} has no vectors to encode: attach at a point that ends in {ends}")
    layout = next((candidate for candidate in candidates if fits(candidate)), None)
    if layout is None:
        widths = " or ".join(f"{c.width} wide{' (all heads)' if c.heads else ''}" for c in reversed(candidates))
        raise PatchError(
            f"{point.described()} holds vectors {widths}, but {requirement}: attach at the point it was trained on"
        )
    return layout


@dataclass(frozen=True, eq=False)
class AttachedPositions:
    """The positions where an SAE replaces the activation, by absolute index. One mask row applies to all rows."""

    mask: Bool[Tensor, "row place"]

    def in_tensor(self, x: Shaped[Tensor, "..."], point: HookPoint, axes: tuple[str, ...]) -> Bool[Tensor, "*lead"]:
        """Return the mask over the vectors of ``x``, whose axes before the vector are ``axes``."""
        dim = next(k for k, axis in enumerate(axes) if axis == point.sequence_axis)
        n, step = x.shape[dim], point.steps_per_position
        positions = (point.first_index + torch.arange(n, device=x.device)) // step
        last = (point.first_index + n - 1) // step
        if last >= self.mask.shape[1]:
            raise PatchError(
                f"positions covers the first {self.mask.shape[1]} {axes[dim]}s at {point.site}, but this pass has "
                f"number {last}: give a mask that is as long as the pass"
            )
        view = [1] * len(axes)
        view[dim] = n
        rows = x.shape[0] if axes[0] == "batch" else 1
        mask = self._for_rows(rows, point).to(x.device)[:, positions]
        view[0] = len(mask) if axes[0] == "batch" else view[0]
        return mask.reshape(view).expand(x.shape[: len(axes)])

    def _for_rows(self, rows: int, point: HookPoint) -> Bool[Tensor, "row place"]:
        mask_rows = len(self.mask)
        if mask_rows in (1, rows):
            return self.mask
        if not point.per_clip and rows % mask_rows == 0:  # the rows of one clip are adjacent: beams, samples
            return self.mask.repeat_interleave(rows // mask_rows, dim=0)
        raise PatchError(
            f"positions has {mask_rows} rows, but {point.site} has {rows} in this pass: give one row per clip, or one "
            "for all (beam search takes clips one by one)"
        )


def sae_positions(positions: Any, point: HookPoint, cfg: WhisperConfig) -> AttachedPositions | None:
    """Return the positions that a user selected, checked; ``None`` for all.

    Raises:
        PatchError: the point has no positions or tokens, a slice is outside the window, or the mask is not boolean
            ``[row, place]``.
    """
    if positions is None:
        return None
    if point.stack == "unembed":  # the unembedding gets only the tokens whose logits are needed, without their indices
        raise PatchError(f"{point.name} is not given all tokens: take decoder.ln_final.hook_normalized with positions=")
    axis = point.sequence_axis
    if axis is None:
        raise PatchError(f"{point.described()} has no positions or tokens to choose from: leave out positions=")
    n = cfg.decoder.n_ctx if axis == "token" else cfg.encoder.n_ctx
    if (mask := _mask_of_rows(positions)) is not None:
        return AttachedPositions(mask)
    row = torch.zeros(1, n, dtype=torch.bool)
    row[:, list(read_indices(positions, n, f"{axis}s", PatchError, clamp=False))] = True
    return AttachedPositions(row)


def _mask_of_rows(positions: Any) -> Bool[Tensor, "row place"] | None:
    """Return a mask with a row per clip (a tensor, an array or nested lists); ``None`` for any other selection."""
    rows = positions
    if isinstance(positions, Sequence) and positions and all(isinstance(r, Sequence | np.ndarray) for r in positions):
        try:
            rows = np.array([list(row) for row in positions])
        except ValueError:
            raise PatchError("the rows of a mask [row, place] must have equal lengths") from None
    if isinstance(rows, np.ndarray) and rows.dtype == np.bool_:
        rows = torch.from_numpy(rows)
    if isinstance(rows, Tensor | np.ndarray) and rows.ndim > 1:
        if not isinstance(rows, Tensor) or rows.dtype != torch.bool or rows.dim() != 2 or not len(rows):
            raise PatchError(
                "positions is a selection of positions, or booleans [row, place] with a row per clip, not "
                f"{rows.dtype} {list(rows.shape)}"
            )
        return rows
    return None
