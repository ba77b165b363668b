"""Shared parts of the two optimizers of mels: checks, activations of short mels, and scaling of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio.mel import DYNAMIC_RANGE
from hooked_whisper.errors import PatchError
from hooked_whisper.hooks import HookPoint
from hooked_whisper.protocols import FeatureBasis

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

RANGE = DYNAMIC_RANGE / 4
"""Largest difference between two values of a log-mel, which is ``(log10 + 4) / 4`` and clamped below its maximum."""


def vector_point(model: HookedWhisper, name: str) -> HookPoint:
    """Return the encoder point of this name, which must have one vector per position.

    Raises:
        PatchError: the name matches several points, or a point without one vector per encoder position.
    """
    names = model.hook_names(name)
    point = model.hook_dict[names[0]]
    if len(names) != 1 or point.stack != "encoder" or tuple(point.axes[:2]) != ("batch", "position"):
        raise PatchError(
            f"{name!r} is not an encoder point with positions: use one such as encoder.blocks.2.mlp.hook_pre"
        )
    if len(point.axes) != 3:
        raise PatchError(f"{point.name} has axes {list(point.axes)}, expected one vector per position")
    return point


def check_mels(
    model: HookedWhisper,
    basis: FeatureBasis,
    units: Sequence[int],
    mels: Float[Tensor, "row mel frame"],
    first_position: int,
) -> int:
    """Check mels that start at ``first_position`` of the encoder's window, and return their number of positions.

    Raises:
        PatchError: a feature does not exist, the mels do not fit the window, or a value is not finite.
    """
    cfg = model.cfg.encoder
    if not len(units) or min(units) < 0 or max(units) >= basis.n_features:
        raise PatchError(f"the features are {list(units)}, expected 0 to {basis.n_features - 1}")
    n, odd = divmod(mels.shape[2], 2)
    if mels.shape[1] != cfg.n_mels or odd or not n or first_position < 0 or first_position + n > cfg.n_ctx:
        raise PatchError(
            f"a mel of {list(mels.shape[1:])} at position {first_position} does not fit: give {cfg.n_mels} bands and "
            f"two frames for each of at most {cfg.n_ctx} positions"
        )
    if not torch.isfinite(mels).all():
        raise PatchError("the mel contains NaN or infinity: give a finite log-mel")
    return n


def activations_of_mel(
    model: HookedWhisper, point: HookPoint, mel: Float[Tensor, "row mel frame"], positions: slice | None
) -> Float[Tensor, "row position d"]:
    """Activations at a point, with gradients. The encoder runs only on ``positions`` and stops at the point."""
    _, cache = model.run_with_cache(
        mel, names_filter=point.name, stop_early=True, mel_positions=positions, detach=False
    )
    return cache[point.name]


def unit_rms(x: Float[Tensor, "row mel frame"]) -> Float[Tensor, "row mel frame"]:
    """Scale each row to a root mean square of 1; zero rows stay zero."""
    size = x.square().mean((1, 2), keepdim=True).sqrt()
    return torch.where(size > 0, x / torch.where(size > 0, size, 1.0), x)
