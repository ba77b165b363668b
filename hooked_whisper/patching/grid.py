"""Where to patch: a hook point and a part of its axes, and grids of them (blocks by spans, blocks by heads, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.indices import Selection, read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option, closest
from hooked_whisper.hooks import HookPoint
from hooked_whisper.hooks.sizes import axis_sizes
from hooked_whisper.model import WhisperCore
from hooked_whisper.patching.subspaces import Subspaces
from hooked_whisper.protocols import Interval

Stack = Literal["encoder", "decoder"]
STACKS = get_args(Stack)
# what users call it -> the end of the hook point's name
COMPONENTS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_mid_cross": "hook_resid_mid_cross",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "cross_attn_out": "hook_cross_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_post": "mlp.hook_post",
    **{name: f"attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern")},
    **{f"cross_{name}": f"cross_attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern")},
    "cross_kv": "cross_attn.hook_k",
}
TOGETHER = {"cross_kv": ("cross_attn.hook_v",)}  # what is patched together with a component's first point
PLACES = ("position", "token", "query", "frame")  # axes along which time or text runs


@dataclass(frozen=True)
class Span:
    """A stretch of encoder positions or decoder tokens, ``[start, stop)``, and what it is."""

    label: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise PatchError(f"span {self.label!r}: need 0 <= start < stop, got [{self.start}, {self.stop})")


@dataclass(frozen=True)
class Axis:
    """One axis of a grid: its name, and a label per entry."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Patch:
    """One hook point and the part of it to take from the other run.

    where: axis -> the indices concerned (axes not named: all of them).
    directions: ``[k, d]``, a basis in the last axis (need not be orthogonal); only what lies in its span is patched.
    subspaces, part: only part number ``part`` of them (see :func:`hooked_whisper.interventions.subspaces_of`).
    also: points of the same axes that are patched together with this one (values with keys of cross-attention).
    """

    name: str
    where: Mapping[str, Selection] = field(default_factory=dict)
    directions: Float[Tensor, "k d"] | None = None
    subspaces: Subspaces | None = None
    part: int = 0
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All points concerned."""
        return (self.name, *self.also)

    def mask(self, point: HookPoint, shape: Sequence[int]) -> Bool[Tensor, "..."]:
        """Which entries are patched: one row without the batch axis, size 1 along the axes not restricted.

        Raises:
            PatchError: an axis that the point does not have, or an index outside it.
        """
        axes = point.axes[1:] if point.axes[0] == "batch" else point.axes
        sizes = list(shape)[-len(axes) :]
        unknown = set(self.where) - set(axes)
        if unknown:
            raise PatchError(f"{self.name} has axes {list(axes)}, no {sorted(unknown)}")
        mask = torch.ones([1] * len(axes), dtype=torch.bool)
        for number, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
            if axis not in self.where:
                continue
            what = f"{axis}s of {self.name}"
            indices = list(read_indices(self.where[axis], size, what, PatchError, clamp=False))
            if not indices:
                raise PatchError(f"{self.where[axis]} selects none of the {size} {what}: give at least one")
            line = torch.zeros(size, dtype=torch.bool)
            line[indices] = True
            view = [1] * len(axes)
            view[number] = size
            mask = mask & line.view(view)
        return mask

    def project(self, difference: Tensor) -> Tensor:
        """The part of a difference of activations that lies in the directions (all of it without any)."""
        if self.directions is None:
            return difference
        basis = torch.linalg.qr(self.directions.to(difference).T).Q  # [d, k], orthonormal
        if basis.shape[0] != difference.shape[-1]:
            raise PatchError(
                f"{self.name}: directions of {basis.shape[0]} numbers, activations of {difference.shape[-1]}"
            )
        return (difference @ basis) @ basis.T


@dataclass(frozen=True, eq=False)
class Grid:
    """Patches with labelled axes; ``patches`` run through the last axis first."""

    patches: tuple[Patch, ...]
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.labels) for axis in self.axes)


def point_name(component: str, stack: Stack, block: int) -> str:
    """``("z", "decoder", 2) -> "decoder.blocks.2.attn.hook_z"``; a full hook name comes back as it is.

    Raises:
        PatchError: a component that is not in :data:`COMPONENTS`.
    """
    check_option("stack", stack, STACKS, PatchError)
    if isinstance(component, str) and component.startswith(("encoder.", "decoder.")):
        return component
    check_option("component", component, COMPONENTS, PatchError)
    return f"{stack}.blocks.{block}.{COMPONENTS[component]}"


def make_grid(
    model: WhisperCore,
    component: str,
    stack: Stack,
    *,
    blocks: Sequence[int] | None = None,
    spans: Sequence[Span] | None = None,
    per_head: bool = False,
    units: Sequence[int] | None = None,
    directions: Float[Tensor, "k d"] | None = None,
    subspaces: Subspaces | None = None,
) -> Grid:
    """Blocks by (spans) by (heads) by (units) by (features) of one component.

    Args:
        component: a name of :data:`COMPONENTS`, or a full hook name (then no block axis), such as
            ``"encoder.hook_out"``.
        spans: one patch each (``None``: all positions at once).
        units: entries of the last axis, one patch each (neurons of ``mlp_post``, for example).
        directions: all patches are confined to their span.
        subspaces: one patch for each of their parts (directions apart, features of a basis).

    Raises:
        PatchError: heads or units where there are none; a component this stack does not have.
    """
    check_option("stack", stack, STACKS, PatchError)
    whole = isinstance(component, str) and component.startswith(("encoder.", "decoder."))
    cfg = model.cfg.encoder if stack == "encoder" else model.cfg.decoder
    numbers = [0] if whole else list(read_indices(blocks, cfg.n_layers, f"blocks of the {stack}", PatchError))
    names = [point_name(component, stack, b) for b in numbers]
    known = model.hook_dict
    for name in names:
        if name not in known:
            near = closest(name, known)
            raise PatchError(f"no hook point {name!r}: {', '.join(near) or 'see model.hook_names()'}")
    point = known[names[0]]
    place = next((axis for axis in PLACES if axis in point.axes), None)
    axes, choices = [], []  # type: list[Axis], list[list[dict[str, slice | Sequence[int]]]]
    if not whole:
        axes.append(Axis("block", tuple(str(b) for b in numbers)))
    if spans is not None:
        if place is None:
            raise PatchError(f"{point.name} has no positions or tokens: axes {list(point.axes)}")
        scale = 2 if place == "frame" else 1
        axes.append(Axis("span", tuple(s.label for s in spans)))
        choices.append([{place: slice(scale * s.start, scale * s.stop)} for s in spans])
    if per_head:
        if "head" not in point.axes:
            raise PatchError(f"{point.name} has no heads: axes {list(point.axes)}")
        axes.append(Axis("head", tuple(map(str, range(cfg.n_heads)))))
        choices.append([{"head": [h]} for h in range(cfg.n_heads)])
    if units is not None:
        units = read_indices(units, _last_size(point, model), f"units of {point.name}", PatchError)
        axes.append(Axis(point.axes[-1], tuple(map(str, units))))
        choices.append([{point.axes[-1]: [u]} for u in units])
    features = (0,) if subspaces is None else range(len(subspaces.labels))
    if subspaces is not None:
        axes.append(Axis("feature", subspaces.labels))
    also = [tuple(f"{stack}.blocks.{b}.{end}" for end in TOGETHER.get(component, ())) for b in numbers]
    patches = [
        Patch(name, {axis: at for part in parts for axis, at in part.items()}, directions, subspaces, feature, others)
        for name, others in zip(names, also, strict=True)
        for parts in product(*choices)
        for feature in features
    ]
    return Grid(tuple(patches), tuple(axes) or (Axis("point", (component,)),))


def _last_size(point: HookPoint, model: WhisperCore) -> int:
    sizes = {"batch": 1, "position": model.cfg.encoder.n_ctx, "token": model.cfg.decoder.n_ctx}
    sizes |= {"d_model": model.cfg.encoder.d_model, "vocab": model.cfg.decoder.n_vocab}
    return axis_sizes(point, model.cfg, sizes)[-1]


def interval_spans(intervals: Sequence[Interval], time: TimeMap, margin: int = 0) -> tuple[Span, ...]:
    """Words or phones as spans of encoder positions, each ``margin`` positions longer at both ends."""
    found = []
    for interval in intervals:
        span = time.span(interval.start, interval.end, rounding="outer")
        found.append(Span(interval.label, max(0, span.start - margin), min(time.n_ctx, span.stop + margin)))
    return tuple(found)


def window_spans(stop: int, size: int, start: int = 0) -> tuple[Span, ...]:
    """Windows of ``size`` positions from ``start`` to ``stop``, the last one shorter if it does not fit."""
    edges = range(start, stop, size)
    return tuple(Span(f"{a}-{min(a + size, stop)}", a, min(a + size, stop)) for a in edges)


def token_spans(labels: Sequence[str], start: int = 0) -> tuple[Span, ...]:
    """One span per decoder token, labelled with its index and text."""
    return tuple(Span(f"{i} {label}", i, i + 1) for i, label in enumerate(labels) if i >= start)
