"""One call for every patching sweep: :func:`patch`, and the sweeps of TransformerLens by their names.

result = patch(model, pairs, "z", "decoder", over=("block", "head"))
estimate = patch(model, pairs, "z", "decoder", over=("block", "head"), method="attribution")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper._support.indices import Selection
from hooked_whisper.activations.options import WindowSize
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.patching.attribution import attribute_patches
from hooked_whisper.patching.exact import BEYOND, run_patches
from hooked_whisper.patching.grid import (
    GridAxis,
    PatchGrid,
    describe_component,
    is_hook_name,
    make_grid,
    runs_over_positions,
)
from hooked_whisper.patching.positions import PositionsLike
from hooked_whisper.patching.results import DIRECTIONS, Direction, PatchMethod, PatchResult
from hooked_whisper.patching.runs import CleanCorruptPair
from hooked_whisper.patching.subspaces import Subspaces
from hooked_whisper.protocols import STACKS, Stack

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Over = Literal["block", "span", "head", "unit", "feature"]
_OVER: tuple[Over, ...] = get_args(Over)  # in the order of a grid's axes


def patch(
    model: HookedWhisper,
    pairs: Sequence[CleanCorruptPair],
    component: str,
    stack: Stack = "encoder",
    *,
    over: Sequence[Over] | None = None,
    method: PatchMethod = "exact",
    direction: Direction = "denoise",
    blocks: Sequence[int] | None = None,
    token_spans: Sequence[PositionsLike] | None = None,
    units: Selection | None = None,
    directions: Float[Tensor, "k d"] | None = None,
    subspaces: Subspaces | None = None,
    window: WindowSize = "full",
    beyond: int = BEYOND,
    progress: bool = False,
) -> PatchResult:
    """Patch one component everywhere, in every pair, and return the metric of every patch.

    Args:
        component: ``"resid_pre"``, ``"attn_out"``, ``"z"``, ``"mlp_post"``, ... (:data:`COMPONENTS`), or a full hook
            name, which has no block axis.
        stack: ``"cross"`` is the decoder's cross-attention.
        over: axes of the sweep, in the order of the result's axes: ``"block"``, ``"span"``, ``"head"``, ``"unit"``
            (entry of the last axis), ``"feature"`` (part of ``subspaces``). Axes not named are patched at once.
            Default: blocks, and spans, units and features where given.
        method: ``"exact"`` runs every patch; ``"attribution"`` estimates all of them from one gradient
            (:mod:`hooked_whisper.patching.attribution`).
        direction: ``"denoise"`` puts clean activations into the corrupt run, ``"noise"`` corrupt ones into the clean.
        blocks: default: all.
        token_spans: spans of decoder components (:func:`hooked_whisper.patching.token_spans`); the spans of the pairs
            are encoder positions.
        units: which entries of the last axis.
        directions: ``[k, d]``; patch only their span.
        subspaces: directions or features to patch one by one (:func:`hooked_whisper.patching.subspaces_of`).
        window: ``"full"`` is exact. ``"sound"`` is several times faster for short clips: patches inside the encoder do
            not change padding (:func:`run_patches`). The result states the deviation of the two patches per pair that
            are also run in full: those of the earliest block with the largest effects.
        beyond: positions of padding after the sound that ``window="sound"`` lets change.

    Raises:
        PatchError: no pairs; pairs whose grids differ in shape; ``over`` names an axis that the sweep lacks, or omits
            one that it has; ``window="sound"`` does not apply.
    """
    check_option("window", window, get_args(WindowSize), PatchError)
    if method == "attribution" and window == "sound":
        raise PatchError("window='sound' is for method='exact': attribution takes one pass for all patches anyway")
    check_option("direction", direction, DIRECTIONS, PatchError)
    check_option("stack", stack, STACKS, PatchError)
    check_option("method", method, get_args(PatchMethod), PatchError)
    for axis in [over] if isinstance(over, str) else over or ():
        check_option("over", axis, _OVER, PatchError)
    if not pairs:
        raise PatchError("there are no pairs to patch: give at least one")
    values, base, source, deviations = [], [], [], []
    axes: tuple[GridAxis, ...] = ()
    order: list[int] = []
    for pair in tqdm(pairs, desc=f"patching {component}", disable=not progress, leave=False):
        spans = (pair.spans or None) if runs_over_positions(component, stack) else token_spans
        available = _axes_of(component, spans, units, subspaces)
        sweep = tuple(axis for axis in _OVER if available[axis]) if over is None else _checked_over(over, available)
        grid = make_grid(
            model,
            component,
            stack,
            blocks=blocks,
            spans=spans if "span" in sweep else None,
            per_head="head" in sweep,
            units=slice(None) if units is None and "unit" in sweep else units,
            directions=directions,
            subspaces=subspaces,
        )
        axes = axes or grid.axes
        if grid.shape != tuple(len(axis.labels) for axis in axes):
            raise PatchError(
                f"pair {pair.label!r} has a grid of {grid.shape}, the first pair one of "
                f"{tuple(len(axis.labels) for axis in axes)}: give every pair the same number of spans"
            )
        order = [[axis for axis in _OVER if axis in sweep].index(axis) for axis in sweep] or [0]
        metrics = _run(model, grid, pair, direction, method, window, beyond)
        values.append(metrics.values.numpy().reshape(grid.shape).transpose(order))
        base.append(metrics.base)
        source.append(metrics.source)
        deviations.append(metrics.deviation)
    return PatchResult(
        axes=tuple(axes[k] for k in order),
        values=np.stack(values),
        base=np.array(base),
        source=np.array(source),
        unit=pairs[0].metric.unit,
        direction=direction,
        site=describe_component(component, stack),
        pairs=tuple(pair.label or str(i) for i, pair in enumerate(pairs)),
        method=method,
        deviation=np.array(deviations) if window == "sound" else None,
    )


def _run(  # type: ignore[no-untyped-def]
    model: HookedWhisper,
    grid: PatchGrid,
    pair: CleanCorruptPair,
    direction: Direction,
    method: PatchMethod,
    window: WindowSize,
    beyond: int,
):
    base, source = pair.runs(direction)
    if method == "attribution":
        return attribute_patches(model, grid, base, source, pair.metric)
    return run_patches(model, grid.patches, base, source, pair.metric, window=window, beyond=beyond)


def _axes_of(component: str, spans: object, units: object, subspaces: object) -> dict[Over, bool]:
    """Return the default axes of a sweep."""
    return {
        "block": not is_hook_name(component),
        "span": spans is not None,
        "head": False,
        "unit": units is not None,
        "feature": subspaces is not None,
    }


def _checked_over(over: Sequence[Over], available: dict[Over, bool]) -> tuple[Over, ...]:
    if len(set(over)) < len(over):
        raise PatchError(f"over={tuple(over)} names an axis twice")
    if available["block"] and "block" not in over:
        raise PatchError(f"over={tuple(over)} lacks 'block': add it, or give a full hook name as component")
    for axis, missing in (("block", "a component of blocks"), ("span", "spans"), ("feature", "subspaces")):
        if axis in over and not available[axis]:  # type: ignore[index]
            raise PatchError(f"over={tuple(over)} names {axis!r}, but there is none: give {missing}")
    for axis, argument in (("unit", "units"), ("feature", "subspaces")):
        if available[axis] and axis not in over:  # type: ignore[index]
            raise PatchError(f"over={tuple(over)} lacks {axis!r}, but {argument}= is given: add it")
    return tuple(over)


def get_act_patch_resid_pre(
    model: HookedWhisper, pairs: Sequence[CleanCorruptPair], stack: Stack = "encoder", **options: Any
) -> PatchResult:
    """Patch the residual stream before each block: block by span. ``options`` as for :func:`patch`."""
    return patch(model, pairs, "resid_pre", stack, **options)


def get_act_patch_attn_out(
    model: HookedWhisper, pairs: Sequence[CleanCorruptPair], stack: Stack = "encoder", **options: Any
) -> PatchResult:
    """Patch the output of each block's attention (``"cross"``: cross-attention): block by span. ``options`` as for
    :func:`patch`."""
    return patch(model, pairs, "attn_out", stack, **options)


def get_act_patch_mlp_out(
    model: HookedWhisper, pairs: Sequence[CleanCorruptPair], stack: Stack = "encoder", **options: Any
) -> PatchResult:
    """Patch the output of each block's MLP: block by span. ``options`` as for :func:`patch`."""
    return patch(model, pairs, "mlp_out", stack, **options)


def get_act_patch_attn_head_out_all_pos(
    model: HookedWhisper, pairs: Sequence[CleanCorruptPair], stack: Stack = "encoder", **options: Any
) -> PatchResult:
    """Patch the output of each head (``hook_z``) at all positions at once: block by head. ``options`` as for
    :func:`patch`; ``over=("block", "span", "head")`` also separates the spans."""
    return patch(model, pairs, "z", stack, **{"over": ("block", "head"), **options})


def get_act_patch_block_every(
    model: HookedWhisper, pairs: Sequence[CleanCorruptPair], stack: Stack = "encoder", **options: Any
) -> PatchResult:
    """Patch ``resid_pre``, ``attn_out`` and ``mlp_out`` of each block: component by block by span. ``options`` as for
    :func:`patch`."""
    sweeps = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    results = [sweep(model, pairs, stack, **options) for sweep in sweeps]
    first = results[0]
    deviations = [result.deviation for result in results if result.deviation is not None]
    return PatchResult(
        axes=(GridAxis("component", ("resid_pre", "attn_out", "mlp_out")), *first.axes),
        values=np.stack([result.values for result in results], axis=1),
        base=first.base,
        source=first.source,
        unit=first.unit,
        direction=first.direction,
        site=f"{stack} blocks",
        pairs=first.pairs,
        method=first.method,
        deviation=np.max(deviations, axis=0) if deviations else None,
    )
