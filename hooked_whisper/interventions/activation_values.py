"""Activations to ablate with: means and samples of real clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError, closest
from hooked_whisper.hooks import HookPoint, Names
from hooked_whisper.model import WhisperCore
from hooked_whisper.patching.positions import filled_positions

CLIPS_PER_PASS = 8


@dataclass(frozen=True, eq=False)
class Means:
    """Mean activation per hook point over valid positions of clips.

    values: ``[...]``, the point's axes without batch and time. n_positions: how many positions were averaged.
    """

    values: Mapping[str, Float[Tensor, "..."]]
    n_positions: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Samples:
    """Activations per hook point at all valid positions of clips, ``[sample, ...]``, to draw from.

    Position ``p`` gets the same draw in every pass and row, however the pass is split into steps.
    """

    values: Mapping[str, Float[Tensor, "sample ..."]]
    seed: int = 0


By = Literal["zero"] | Means | Samples


def check_by(by: Any) -> None:
    """Refuse ablation values other than ``"zero"``, means and samples.

    Raises:
        PatchError: ``by`` is anything else.
    """
    if not isinstance(by, Means | Samples) and not (isinstance(by, str) and by == "zero"):
        hint = "; did you mean 'zero'?" if isinstance(by, str) and closest(by, ["zero"]) else ""
        raise PatchError(f"by must be 'zero', means(...) or samples(...), not {by!r:.80}{hint}")


def means(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
) -> Means:
    """Return mean activations over the positions of clips that are not padding.

    Args:
        names: points with a position, frame or token axis.
        tokens: decoder input of each clip, for points of the decoder; all tokens count.
        n_valid: encoder positions that each clip fills; default: up to where its mel becomes constant.

    Raises:
        PatchError: a point has no such axis; no clip has a valid position; ``len(n_valid)`` differs from the number of
            clips.
    """
    collected = _collect(model, mels, names, tokens, n_valid)
    return Means(
        {name: rows.mean(0) for name, rows in collected.items()}, {name: len(rows) for name, rows in collected.items()}
    )


def samples(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
    seed: int = 0,
) -> Samples:
    """Return all activations at the valid positions of clips, to resample from; arguments as for :func:`means`."""
    return Samples(_collect(model, mels, names, tokens, n_valid), seed)


@torch.no_grad()
def _collect(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    tokens: Int[Tensor, "clip token"] | None,
    n_valid: Sequence[int] | None,
) -> dict[str, Float[Tensor, "pos ..."]]:
    hook_names = model.hook_names(names)
    time_axes = {name: _time_axis(model.hook_dict[name]) for name in hook_names}
    valid = filled_positions(mels) if n_valid is None else tuple(int(n) for n in n_valid)
    if len(valid) != len(mels):
        raise PatchError(f"{len(mels)} clips but {len(valid)} numbers of valid positions: give one for each")
    if not sum(valid):
        raise PatchError("all clips are only padding: there is no activation to average")
    rows: dict[str, list[Tensor]] = {name: [] for name in hook_names}
    for start in range(0, len(mels), CLIPS_PER_PASS):
        clips = slice(start, start + CLIPS_PER_PASS)
        clip_tokens = None if tokens is None else tokens[clips]
        _, cache = model.run_with_cache(mels[clips], clip_tokens, names_filter=hook_names, stop_early=True)
        for name in hook_names:
            x = cache[name].movedim(time_axes[name], 1)  # [clip, position, ...]
            axis = model.hook_dict[name].axes[time_axes[name]]
            ends = torch.tensor(valid[clips], device=x.device) * model.hook_dict[name].steps_per_position
            is_valid = (torch.arange(x.shape[1], device=x.device)[None] < ends[:, None]) | (axis == "token")
            rows[name].append(x[is_valid])
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _time_axis(point: HookPoint) -> int:
    axes = [axis for axis in ("position", "frame", "token") if axis in point.axes]
    if not axes or point.axes[0] != "batch":
        raise PatchError(f"{point.name} {list(point.axes)} has no position, frame or token axis to average over")
    return point.axes.index(axes[0])
