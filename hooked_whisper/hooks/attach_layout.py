"""How the tensor of a hook point holds the vectors that a dictionary takes, and which of them it gets."""

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
from hooked_whisper.hooks.hook_point import HookPoint, of_cross_keys

_WIDE = ("d_model", "d_mlp", "d_head", "vocab")
PLACES = ("position", "token", "frame")


@dataclass(frozen=True)
class Layout:
    """Vectors along the last axis, or along the last two where those of all heads are one vector (``heads`` then).

    axes: those before the vector. width: of the vector.
    """

    axes: tuple[str, ...]
    width: int
    heads: int | None = None

    def vectors(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "*lead width"]:
        return x if self.heads is None else x.flatten(-2)

    def tensor(self, vectors: Shaped[Tensor, "*lead width"]) -> Shaped[Tensor, "..."]:
        return vectors if self.heads is None else vectors.unflatten(-1, (self.heads, -1))


def layouts(point: HookPoint, cfg: WhisperConfig) -> tuple[Layout, ...]:
    """The ways to read a point; none where its last axis is no vector (scores, tokens, mels)."""
    stack = cfg.encoder if point.stack == "encoder" else cfg.decoder
    last = point.axes[-1]
    if last not in _WIDE:
        return ()
    sizes = {"d_model": stack.d_model, "d_mlp": stack.d_mlp, "d_head": stack.d_head, "vocab": cfg.decoder.n_vocab}
    found = [Layout(point.axes[:-1], sizes[last])]
    if point.axes[-2:-1] == ("head",):
        found.insert(0, Layout(point.axes[:-2], sizes[last] * stack.n_heads, stack.n_heads))
    return tuple(found)


def fitting(point: HookPoint, cfg: WhisperConfig, fits: Callable[[Layout], bool], needs: str) -> Layout:
    """The layout that fits.

    Raises:
        PatchError: none does; names the point, its axes and widths, and what is needed.
    """
    found = layouts(point, cfg)
    if not found:
        raise PatchError(f"{point.described()} has no vectors to encode: splice at one that ends in {', '.join(_WIDE)}")
    chosen = next((one for one in found if fits(one)), None)
    if chosen is None:
        wide = " or ".join(f"{one.width} wide{' (all heads)' if one.heads else ''}" for one in reversed(found))
        raise PatchError(f"{point.described()} holds vectors {wide}, but {needs}: splice at the point it was made for")
    return chosen


@dataclass(frozen=True, eq=False)
class Chosen:
    """The places that go through the dictionary, by absolute number; one row of the mask stands for all rows."""

    mask: Bool[Tensor, "row place"]

    def at(self, x: Shaped[Tensor, "..."], point: HookPoint, axes: tuple[str, ...]) -> Bool[Tensor, "*lead"]:
        """Which of the vectors in ``x`` (``axes``: those before the vector) they are."""
        place = next(k for k, axis in enumerate(axes) if axis in PLACES)
        n, step = x.shape[place], 2 if axes[place] == "frame" else 1
        numbers = (point.first_place + torch.arange(n, device=x.device)) // step
        last = (point.first_place + n - 1) // step
        if last >= self.mask.shape[1]:
            raise PatchError(
                f"positions says which of the first {self.mask.shape[1]} {axes[place]}s to splice at {point.site}, "
                f"but this pass has number {last}: give a mask that is as long as the pass"
            )
        view = [1] * len(axes)
        view[place] = n
        rows = x.shape[0] if axes[0] == "batch" else 1
        mask = self._for_rows(rows, point).to(x.device)[:, numbers]
        view[0] = len(mask) if axes[0] == "batch" else view[0]
        return mask.reshape(view).expand(x.shape[: len(axes)])

    def _for_rows(self, rows: int, point: HookPoint) -> Bool[Tensor, "row place"]:
        given = len(self.mask)
        if given in (1, rows):
            return self.mask
        of_clips = point.stack == "encoder" or of_cross_keys(point.site)
        if not of_clips and rows % given == 0:  # rows of one clip stand together: beams, samples
            return self.mask.repeat_interleave(rows // given, dim=0)
        raise PatchError(
            f"positions has {given} rows, but {point.site} has {rows} in this pass: give one row per clip, or one for "
            "all (beam search takes clips one by one)"
        )


def sae_positions(positions: Any, point: HookPoint, cfg: WhisperConfig) -> Chosen | None:
    """What a user wrote, checked.

    Raises:
        PatchError: a point without positions or tokens, a slice that is not inside the window, another kind of mask.
    """
    if positions is None:
        return None
    if point.stack == "unembed":  # only the tokens whose logits are wanted come there, and nobody says which
        raise PatchError(f"{point.name} is not given all tokens: take decoder.ln_final.hook_normalized with positions=")
    axis = next((axis for axis in point.axes if axis in PLACES), None)
    if axis is None:
        raise PatchError(f"{point.described()} has no positions or tokens to choose from: leave out positions=")
    n = cfg.decoder.n_ctx if axis == "token" else cfg.encoder.n_ctx
    if (mask := _mask_of_rows(positions)) is not None:
        return Chosen(mask)
    line = torch.zeros(1, n, dtype=torch.bool)
    line[:, list(read_indices(positions, n, f"{axis}s", PatchError, clamp=False))] = True
    return Chosen(line)


def _mask_of_rows(positions: Any) -> Bool[Tensor, "row place"] | None:
    """A mask with a row per clip: a tensor, an array or lists in a list; ``None`` for any other selection."""
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
                "positions is a selection of places, or booleans [row, place] with a row per clip, not "
                f"{rows.dtype} {list(rows.shape)}"
            )
        return rows
    return None
