"""Hook points whose activations can be read as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import Names
from hooked_whisper.hooks.hook_names import listed

RowUnit = Literal["position", "token"]


def points_of(model: HookedWhisper, hooks: Names) -> tuple[str, ...]:
    """Return canonical hook names in the order given; the matches of a pattern in the order of the forward pass.

    Raises:
        HookedWhisperError: a point is named twice, or has no row per encoder position or token.
        UnknownHookError: the model has no such point, or a pattern matches nothing.
    """
    names = [name for hook in listed(hooks) for name in model.hook_names(hook)]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise HookedWhisperError(f"{repeated[0]} is named twice: name each hook point once")
    for name in names:
        axes = model.hook_dict[name].axes
        if axes[:2] not in (("batch", "position"), ("batch", "token")) or len(axes) < 3:
            raise HookedWhisperError(
                f"{name} has axes [{', '.join(axes)}], expected [batch, position, ...] or [batch, token, ...]: take a "
                "point such as encoder.blocks.2 or encoder.blocks.2.mlp.hook_post"
            )
    return tuple(names)


def row_width(model: HookedWhisper, hook: str) -> int:
    """Return the length of a point's rows, with heads concatenated."""
    return math.prod(model.hook_dict[hook].shape({})[2:])


def row_unit(model: HookedWhisper, hooks: Sequence[str]) -> RowUnit:
    """Return what a row of these points stands for: ``"position"`` or ``"token"``.

    Raises:
        HookedWhisperError: some points have a row per encoder position, others one per token.
    """
    units = {hook: model.hook_dict[hook].axes[1] for hook in hooks}
    if len(set(units.values())) > 1:
        raise HookedWhisperError(
            "the hook points of one pass must all have a row per encoder position or all one per token, got "
            f"{', '.join(f'{hook} ({unit})' for hook, unit in units.items())}: read them in two passes (into two "
            "folders)"
        )
    return "token" if "token" in units.values() else "position"
