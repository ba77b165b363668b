"""Ablation: heads, neurons, directions or whole activations set to zero, to their mean, or to what they are elsewhere.

Everything returns hooks, so that ``with model.hooks(fwd_hooks=ablate(...))`` works for one pass and for live decoding
alike: places are absolute, also where a hook sees one token at a time.

Sources: zero and mean ablation: Wang et al. 2022 (arXiv 2211.00593), section 2.1; resample ablation: Chan et al. 2022
(causal scrubbing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.indices import read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option, closest
from hooked_whisper.hooks import HookPoint, Names
from hooked_whisper.hooks.hook_point import of_cross_keys
from hooked_whisper.interventions.masks import attention_name
from hooked_whisper.interventions.positions import UNITS, Places, Where, filled_positions, places
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.masks import Kind
from hooked_whisper.patching.grid import PLACES
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.patch import Inputs, keep
from hooked_whisper.patching.resume import needed, run_from
from hooked_whisper.patching.subspaces import Subspaces, subspaces_of

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

FwdHooks = list[tuple[str, Any]]
CLIPS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Means:
    """Mean activation of each point over valid places of clips: ``[...]``, the point's axes without batch and place."""

    values: Mapping[str, Float[Tensor, "..."]]
    n_places: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Samples:
    """Activations of each point at all valid places of clips, ``[sample, ...]``, to draw from.

    Place number ``p`` gets the same draw in every pass (and every row), however the pass is cut into steps.
    """

    values: Mapping[str, Float[Tensor, "sample ..."]]
    seed: int = 0


By = Literal["zero"] | Means | Samples


def means(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
) -> Means:
    """Mean activations over the places of these clips that are not padding.

    Args:
        names: points with a position, frame or token axis.
        tokens: decoder input of each clip, for points of the decoder (all tokens count).
        n_valid: encoder positions that each clip fills; default: up to where its mel becomes constant.

    Raises:
        PatchError: a point without such an axis, clips without a valid position, or as many numbers as clips missing.
    """
    found = _collect(model, mels, names, tokens, n_valid)
    return Means({n: x.mean(0) for n, x in found.items()}, {n: len(x) for n, x in found.items()})


def samples(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    *,
    tokens: Int[Tensor, "clip token"] | None = None,
    n_valid: Sequence[int] | None = None,
    seed: int = 0,
) -> Samples:
    """All activations at the valid places of these clips, to draw resamples from; arguments as for :func:`means`."""
    return Samples(_collect(model, mels, names, tokens, n_valid), seed)


@torch.no_grad()
def _collect(
    model: WhisperCore,
    mels: Float[Tensor, "clip mel frame"],
    names: Names,
    tokens: Int[Tensor, "clip token"] | None,
    n_valid: Sequence[int] | None,
) -> dict[str, Float[Tensor, "place ..."]]:
    wanted = model.hook_names(names)
    axes = {name: _place_axis(model.hook_dict[name]) for name in wanted}
    valid = filled_positions(mels) if n_valid is None else tuple(int(k) for k in n_valid)
    if len(valid) != len(mels):
        raise PatchError(f"{len(mels)} clips but {len(valid)} numbers of valid positions")
    if not sum(valid):
        raise PatchError("these clips are padding alone: there is nothing to take the mean of")
    kept: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for at in range(0, len(mels), CLIPS_AT_ONCE):
        some = slice(at, at + CLIPS_AT_ONCE)
        given = None if tokens is None else tokens[some]
        _, cache = model.run_with_cache(mels[some], given, names=wanted, return_type=None)
        for name in wanted:
            x = cache[name].movedim(axes[name], 1)  # [clip, place, ...]
            ends = torch.tensor(valid[some], device=x.device)
            of_tokens = model.hook_dict[name].axes[axes[name]] == "token"
            scale = 2 if model.hook_dict[name].axes[axes[name]] == "frame" else 1
            at_place = torch.arange(x.shape[1], device=x.device)
            chosen = (at_place[None] < scale * ends[:, None]) | of_tokens
            kept[name].append(x[chosen])
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _place_axis(point: HookPoint) -> int:
    found = [axis for axis in ("position", "frame", "token") if axis in point.axes]
    if not found or point.axes[0] != "batch":
        raise PatchError(f"{point.name} {list(point.axes)} has no position, frame or token to take means over")
    return point.axes.index(found[0])


def ablate(
    model: WhisperCore,
    names: Names,
    *,
    by: By = "zero",
    heads: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    directions: Float[Tensor, "d"] | Float[Tensor, "k d"] | Subspaces | None = None,
    where: Where = None,
    unit: str = "positions",
) -> FwdHooks:
    """Hooks that put zero, the mean or a resample in place of (a part of) activations.

    Args:
        names: hook points.
        by: ``"zero"``, or the :func:`means` or :func:`samples` of these points.
        heads, units: only these entries of the ``head`` axis, of the last axis (neurons at ``mlp.hook_post``).
        directions: only what lies in their span (or in these parts of the activation: features of a basis).
        where, unit: only at these places, see :func:`hooked_whisper.interventions.positions.places`.

    Raises:
        PatchError: heads, units or places that do not exist, directions of another width, means of other points.
    """
    _check_by(by)
    check_option("unit", unit, UNITS, PatchError)
    hooks: FwdHooks = []
    for name in model.hook_names(names):
        point = model.hook_dict[name]
        keep_mask = _entries_mask(model, point, heads, units)
        at = places(where, unit, n=_n_places(model, point), time=_clock(model, point))
        place = next((i for i, axis in enumerate(point.axes) if axis in PLACES), None)
        if at.spans is not None and place is None:
            raise PatchError(f"{name} {list(point.axes)} has no places to choose from: leave out where=")
        hooks.append((name, _Ablation(_value(by, point, place, model), keep_mask, at, place, _spaces(directions))))
    return hooks


@dataclass(frozen=True, eq=False)
class _Ablation:
    value: Callable[[Tensor, HookPoint], Tensor]
    entries: Tensor | None
    at: Places
    place: int | None
    spaces: Subspaces | None

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        new = self.value(x, hook)
        if self.spaces is not None:
            source, base = new.expand_as(x)[None], x[None]  # the batch is one more place
            for part in range(len(self.spaces.labels)):
                base = self.spaces.replaced(base, source, torch.tensor([part]))
            new = base[0]
        mask = torch.ones((), dtype=torch.bool, device=x.device)
        if self.entries is not None:
            mask = mask & self.entries.to(x.device)
        if self.at.spans is not None:
            assert self.place is not None
            mask = mask & place_mask(self.at, x, hook, self.place)
        return torch.where(mask, new, x)


def place_mask(at: Places, x: Tensor, hook: HookPoint, place: int) -> Bool[Tensor, "..."]:
    """Which entries of an activation, along its axis ``place``, lie at these places; size 1 along the other axes."""
    numbers = hook.first_place + torch.arange(x.shape[place], device=x.device)
    view = [1] * x.dim()
    view[place] = -1
    return at.of(numbers // (2 if hook.axes[place] == "frame" else 1)).view(view)


def _check_by(by: Any) -> None:
    if not isinstance(by, Means | Samples):
        check_option("by (or what means(...) or samples(...) returned)", by, ("zero",), PatchError)


def _value(by: By, point: HookPoint, place: int | None, model: WhisperCore) -> Any:
    _check_by(by)
    if isinstance(by, str):
        return lambda x, hook: torch.zeros_like(x)
    if point.name not in by.values:
        near = closest(point.name, by.values)
        raise PatchError(f"there are no activations of {point.name} to put in, only of {near or sorted(by.values)}")
    given = by.values[point.name]
    if place is None:
        raise PatchError(f"{point.name} {list(point.axes)} has no places: ablate it by 'zero'")
    if isinstance(by, Means):
        return lambda x, hook: given.to(x).unsqueeze(place - 1)
    # one draw per absolute place, the same however long the pass is
    longest = max(model.cfg.encoder.n_frames, model.cfg.decoder.n_ctx)
    drawn = torch.randint(len(given), (longest,), generator=torch.Generator().manual_seed(by.seed))

    def resampled(x: Tensor, hook: HookPoint) -> Tensor:
        start = hook.first_place
        chosen = given[drawn[start : start + x.shape[place]].to(given.device)]
        return chosen.to(x).movedim(0, place - 1)[None]

    return resampled


def _entries_mask(
    model: WhisperCore, point: HookPoint, heads: Sequence[int] | None, units: Sequence[int] | None
) -> Tensor | None:
    mask: Tensor | None = None
    cfg = model.cfg.encoder if point.stack == "encoder" else model.cfg.decoder
    last = {"head": cfg.n_heads, "d_head": cfg.d_head, "d_mlp": cfg.d_mlp, "d_model": cfg.d_model, **point.sizes}
    for what, chosen, axis in (("head", heads, "head"), ("unit", units, point.axes[-1])):
        if chosen is None:
            continue
        if axis not in point.axes or axis not in last:
            raise PatchError(f"{point.name} {list(point.axes)} has no {what}s")
        line = torch.zeros(last[axis], dtype=torch.bool)
        line[list(read_indices(chosen, len(line), f"{what}s of {point.name}", PatchError))] = True
        view = [1] * len(point.axes)
        view[point.axes.index(axis)] = -1
        mask = line.view(view) if mask is None else mask & line.view(view)
    return mask


def _spaces(directions: Tensor | Subspaces | None) -> Subspaces | None:
    if directions is None or not isinstance(directions, Tensor):
        return directions
    return subspaces_of(torch.atleast_2d(directions)[None])


def _of_tokens(point: HookPoint) -> bool:
    return point.stack != "encoder" and not of_cross_keys(point.site)


def _n_places(model: WhisperCore, point: HookPoint) -> int:
    return model.cfg.decoder.n_ctx if _of_tokens(point) else model.cfg.encoder.n_ctx


def _clock(model: WhisperCore, point: HookPoint) -> TimeMap | None:
    return None if _of_tokens(point) else TimeMap(n_ctx=model.cfg.encoder.n_ctx)


def z_name(stack: Kind, block: int) -> str:
    """``("cross", 1) -> "decoder.blocks.1.cross_attn.hook_z"``"""
    check_option("stack", stack, get_args(Kind), PatchError)
    return f"{attention_name(stack, block)}.hook_z"


def _by_block(pairs: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    of: dict[int, list[int]] = {}
    for block, entry in pairs:
        of.setdefault(block, []).append(entry)
    return of


def ablate_heads(
    model: WhisperCore,
    heads: Sequence[tuple[int, int]],
    *,
    stack: Kind = "encoder",
    by: By = "zero",
    where: Where = None,
    unit: str = "positions",
) -> FwdHooks:
    """Hooks that ablate these ``(block, head)`` (their ``hook_z``, before the output projection)."""
    check_option("stack", stack, get_args(Kind), PatchError)
    _check_by(by)
    return [
        one
        for b, some in _by_block(heads).items()
        for one in ablate(model, z_name(stack, b), by=by, heads=some, where=where, unit=unit)
    ]


def ablate_neurons(
    model: WhisperCore,
    neurons: Sequence[tuple[int, int]],
    *,
    stack: Literal["encoder", "decoder"] = "encoder",
    by: By = "zero",
    where: Where = None,
    unit: str = "positions",
) -> FwdHooks:
    """Hooks that ablate these ``(block, neuron)`` of the MLPs (after the GELU)."""
    check_option("stack", stack, ("encoder", "decoder"), PatchError)
    _check_by(by)
    return [
        one
        for b, some in _by_block(neurons).items()
        for one in ablate(model, f"{stack}.blocks.{b}.mlp.hook_post", by=by, units=some, where=where, unit=unit)
    ]


@dataclass(frozen=True, eq=False)
class HeadSweep:
    """The metric without each head in turn, ``[block, head]``, and with all of them (``base``)."""

    values: Float[Tensor, "block head"]
    base: float
    unit: str
    stack: str

    @property
    def effect(self) -> Float[Tensor, "block head"]:
        """What ablating the head does to the metric."""
        return self.values - self.base

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict per head: stack, block, head, value, effect."""
        effect = self.effect
        return [
            {"stack": self.stack, "block": b, "head": h, "value": float(v), "effect": float(effect[b, h])}
            for b, row in enumerate(self.values.tolist())
            for h, v in enumerate(row)
        ]


@torch.no_grad()
def sweep_heads(
    model: HookedWhisper,
    inputs: Inputs,
    metric: Metric,
    *,
    stack: Kind = "encoder",
    by: By = "zero",
    where: Where = None,
    unit: str = "positions",
) -> HeadSweep:
    """The metric of one clip without each head in turn.

    The heads of a block are rows of one batch, taken up behind the ablated point: the base run is made once.

    Raises:
        PatchError: as :func:`ablate`; encoder heads of inputs that have no mel.
    """
    check_option("stack", stack, get_args(Kind), PatchError)
    _check_by(by)
    cfg = model.cfg.encoder if stack == "encoder" else model.cfg.decoder
    names = [z_name(stack, b) for b in range(cfg.n_layers)]
    base = keep(model, inputs, [*names, *(n for name in names for n in needed(model, name))])
    rows = []
    for name in names:
        point = model.hook_dict[name]
        point.clock.offset = 0
        changed = [
            ablate(model, name, by=by, heads=[h], where=where, unit=unit)[0][1](base[name], point)
            for h in range(cfg.n_heads)
        ]
        given = {name: torch.cat(changed)}
        hidden = run_from(model, base, given, inputs.tokens, inputs.mel, base["encoder.hook_out"])
        rows.append(read_metric(model, hidden, metric).double().cpu())
    value = float(read_metric(model, base["unembed.hook_in"], metric))
    return HeadSweep(torch.stack(rows), value, metric.unit, stack)
