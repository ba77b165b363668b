"""Grids of patches: which part of which activation each patch replaces (blocks by spans, blocks by heads, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.heads import n_blocks_and_heads
from hooked_whisper._support.indices import Selection, read_indices
from hooked_whisper._support.showing import Showing, Summary, counted, joined
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option, closest
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.names import is_per_clip
from hooked_whisper.patching.positions import PositionsLike, has_tokens, point_positions, span_label
from hooked_whisper.patching.subspaces import Subspaces
from hooked_whisper.protocols import STACKS, Positions, Stack

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
"""Component name -> end of the hook point's name."""
_PATCHED_WITH = {"cross_kv": ("cross_attn.hook_v",)}  # points patched together with a component's first point


@dataclass(frozen=True)
class GridAxis:
    """One axis of a grid: its name, and a label per entry."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Showing):
    """One hook point, and the part of its activation to take from the other run.

    indices: axis name -> entries to patch; axes not named are patched in full.
    directions: ``[k, d]`` vectors, not necessarily orthogonal; only their span is patched.
    subspaces, part: patch only part number ``part`` (:func:`hooked_whisper.patching.subspaces_of`).
    also: points with the same axes that are patched together with this one (values with keys of cross-attention).
    """

    name: str
    indices: Mapping[str, Selection] = field(default_factory=dict)
    directions: Float[Tensor, "k d"] | None = None
    subspaces: Subspaces | None = None
    part: int = 0
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All patched points."""
        return (self.name, *self.also)

    def mask(self, point: HookPoint, shape: Sequence[int]) -> Bool[Tensor, "..."]:
        """Return which entries are patched: no batch axis, size 1 along axes that are patched in full.

        Raises:
            PatchError: the point has no such axis, or an index is out of range.
        """
        axes = point.axes[1:] if point.axes[0] == "batch" else point.axes
        sizes = list(shape)[-len(axes) :]
        unknown = set(self.indices) - set(axes)
        if unknown:
            raise PatchError(f"{self.name} has axes {list(axes)}, but not {sorted(unknown)}")
        mask = torch.ones([1] * len(axes), dtype=torch.bool)
        for number, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
            if axis in self.indices:
                view = [1] * len(axes)
                view[number] = size
                mask = mask & self.axis_mask(axis, size).view(view)
        return mask

    def axis_mask(self, axis: str, size: int) -> Bool[Tensor, "size"]:
        """Return which of the ``size`` entries of an axis are patched.

        Raises:
            PatchError: an index is out of range, or none is given.
        """
        entries = f"{axis}s of {self.name}"
        indices = list(read_indices(self.indices.get(axis, slice(None)), size, entries, PatchError, clamp=False))
        if not indices:
            raise PatchError(f"{self.indices[axis]} selects none of the {size} {entries}: give at least one")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[indices] = True
        return mask

    def project(self, difference: Tensor) -> Tensor:
        """Project a difference of activations on ``directions``; without directions, return it unchanged."""
        if self.directions is None:
            return difference
        basis = torch.linalg.qr(self.directions.to(difference).T).Q  # [d, k], orthonormal
        if basis.shape[0] != difference.shape[-1]:
            raise PatchError(
                f"{self.name}: directions have {basis.shape[0]} entries, activations have {difference.shape[-1]}"
            )
        return (difference @ basis) @ basis.T


@dataclass(frozen=True, eq=False, repr=False)
class PatchGrid(Showing):
    """Patches with labeled axes. The last axis varies fastest in ``patches``."""

    patches: tuple[Patch, ...]
    axes: tuple[GridAxis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.labels) for axis in self.axes)

    def summary(self) -> Summary:
        points = list(dict.fromkeys(patch.name for patch in self.patches))
        notes = (f"hook points: {joined(points, 4)}",)
        rows = tuple((axis.name, len(axis.labels), joined(axis.labels)) for axis in self.axes)
        return Summary(
            f"PatchGrid: {counted(len(self.patches), 'patch', 'patches')}", notes, ("axis", "n", "entries"), rows
        )


def is_hook_name(component: str) -> bool:
    """Whether a component is a full hook name rather than a name of :data:`COMPONENTS`."""
    return isinstance(component, str) and component.startswith(("encoder.", "decoder."))


def point_name(component: str, stack: Stack, block: int) -> str:
    """Return a hook name: ``("z", "decoder", 2)`` is ``decoder.blocks.2.attn.hook_z``. A full hook name is unchanged.

    With ``stack="cross"``, ``"z"`` is ``"cross_z"`` of the decoder.

    Raises:
        PatchError: ``component`` is not in :data:`COMPONENTS`.
    """
    component, module = _component_of(component, stack)
    if is_hook_name(component):
        return component
    check_option("component", component, COMPONENTS, PatchError)
    return f"{module}.blocks.{block}.{COMPONENTS[component]}"


def _component_of(component: str, stack: Stack) -> tuple[str, Stack]:
    """Return the component, and the stack that contains its block: ``("z", "cross")`` is ``("cross_z", "decoder")``."""
    check_option("stack", stack, STACKS, PatchError)
    if is_hook_name(component):
        return component, "encoder" if component.startswith("encoder.") else "decoder"
    if stack != "cross":
        return component, stack
    return (f"cross_{component}" if f"cross_{component}" in COMPONENTS else component), "decoder"


def runs_over_positions(component: str, stack: Stack) -> bool:
    """Whether a component's spans are encoder positions, not decoder tokens."""
    component, module = _component_of(component, stack)
    return module == "encoder" or component in ("cross_k", "cross_v", "cross_kv") or is_per_clip(component)


def describe_component(component: str, stack: Stack) -> str:
    """``"encoder resid_pre"``, or a full hook name as it is."""
    component, module = _component_of(component, stack)
    return component if "." in component else f"{module} {component}"


def make_grid(
    model: WhisperCore,
    component: str,
    stack: Stack = "encoder",
    *,
    blocks: Sequence[int] | None = None,
    spans: Sequence[PositionsLike] | None = None,
    per_head: bool = False,
    units: Selection | None = None,
    directions: Float[Tensor, "k d"] | None = None,
    subspaces: Subspaces | None = None,
) -> PatchGrid:
    """Return a grid of patches of one component: blocks by spans by heads by units by features.

    Args:
        component: a name of :data:`COMPONENTS`, or a full hook name such as ``"encoder.hook_out"``, which has no
            block axis.
        blocks: default: all.
        spans: one patch each; ``None`` patches all positions at once.
        per_head: one patch per head.
        units: entries of the last axis, one patch each (neurons of ``mlp_post``).
        directions: patch only their span.
        subspaces: one patch per part (directions, or features of a basis).

    Raises:
        PatchError: the component has no heads, units or positions, or does not exist in this stack.
    """
    component, stack = _component_of(component, stack)
    n_blocks, n_heads = n_blocks_and_heads(model.cfg, stack)
    full_name = is_hook_name(component)
    numbers = [0] if full_name else list(read_indices(blocks, n_blocks, f"blocks of the {stack}", PatchError))
    names = [point_name(component, stack, block) for block in numbers]
    for name in names:
        if name not in model.hook_dict:
            near = closest(name, model.hook_dict)
            raise PatchError(f"no hook point {name!r}: {', '.join(near) or 'see model.hook_names()'}")
    point = model.hook_dict[names[0]]
    axes: list[GridAxis] = []
    choices: list[list[dict[str, Selection]]] = []  # per axis: indices of each entry
    if not full_name:
        axes.append(GridAxis("block", tuple(str(block) for block in numbers)))
    if spans is not None:
        time_axis = point.sequence_axis
        if time_axis is None:
            raise PatchError(f"{point.name} has no positions or tokens: its axes are {list(point.axes)}")
        read = [point_positions(model, point, span) for span in spans]
        seconds = None if has_tokens(point) else TimeMap(n_ctx=model.cfg.encoder.n_ctx).seconds_per_position
        axes.append(GridAxis("span", tuple(span_label(span, seconds) for span in read)))
        choices.append([{time_axis: _selection(span, point.steps_per_position)} for span in read])
    if per_head:
        if "head" not in point.axes:
            raise PatchError(f"{point.name} has no heads: its axes are {list(point.axes)}")
        axes.append(GridAxis("head", tuple(map(str, range(n_heads)))))
        choices.append([{"head": [head]} for head in range(n_heads)])
    if units is not None:
        entries = read_indices(units, _last_size(point, model), f"units of {point.name}", PatchError)
        axes.append(GridAxis(point.axes[-1], tuple(map(str, entries))))
        choices.append([{point.axes[-1]: [unit]} for unit in entries])
    features = (0,) if subspaces is None else range(len(subspaces.labels))
    if subspaces is not None:
        axes.append(GridAxis("feature", subspaces.labels))
    also = [tuple(f"{stack}.blocks.{block}.{end}" for end in _PATCHED_WITH.get(component, ())) for block in numbers]
    patches = [
        Patch(name, {k: v for part in parts for k, v in part.items()}, directions, subspaces, feature, others)
        for name, others in zip(names, also, strict=True)
        for parts in product(*choices)
        for feature in features
    ]
    return PatchGrid(tuple(patches), tuple(axes) or (GridAxis("point", (component,)),))


def _selection(positions: Positions, scale: int) -> Selection:
    """Return entries of the time axis; ``scale`` is 2 for mel frames."""
    if positions.spans is None:
        return slice(None)
    if len(positions.spans) == 1:
        return slice(scale * positions.start, scale * positions.stop)
    return [entry for start, stop in positions.spans for entry in range(scale * start, scale * stop)]


def _last_size(point: HookPoint, model: WhisperCore) -> int:
    return point.shape({"position": model.cfg.encoder.n_ctx, "token": model.cfg.decoder.n_ctx})[-1]
