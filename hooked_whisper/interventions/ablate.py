"""Ablation: set heads, neurons, directions or whole activations to zero, to their mean, or to a resample.

Every function returns hooks for ``model.hooks(fwd_hooks=...)``. They work in single passes and in live decoding:
positions are absolute, even where a hook sees one token at a time.

Sources: zero and mean ablation: Wang et al. 2022 (arXiv 2211.00593), section 2.1; resample ablation: Chan et al. 2022
(causal scrubbing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.heads import n_blocks_and_heads, read_heads
from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.indices import read_indices
from hooked_whisper._support.plotly_figures import Backend, check_backend
from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Summary, Tabular, counted, joined
from hooked_whisper.errors import PatchError, check_option, closest
from hooked_whisper.hooks import HookPoint, Names
from hooked_whisper.interventions.activation_values import By, Means, check_by
from hooked_whisper.model import WhisperCore
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.positions import UNITS, PositionsLike, point_positions, span_label
from hooked_whisper.patching.resume import required_activations, resume_from
from hooked_whisper.patching.runs import RunInputs, cache_run
from hooked_whisper.patching.subspaces import Subspaces, subspaces_of
from hooked_whisper.protocols import STACKS, HeadLike, HeadRef, Positions, ResidualStack, Stack, attention_name

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

FwdHooks = list[tuple[str, Any]]


@renamed_arguments(where="positions")
def ablate(
    model: WhisperCore,
    names: Names,
    *,
    by: By = "zero",
    heads: Sequence[int] | None = None,
    units: Sequence[int] | None = None,
    directions: Float[Tensor, "d"] | Float[Tensor, "k d"] | Subspaces | None = None,
    positions: PositionsLike = None,
    unit: str = "positions",
) -> FwdHooks:
    """Return hooks that replace activations, or a part of them, by zero, the mean or a resample.

    Args:
        names: hook points.
        by: ``"zero"``, or the :func:`means` or :func:`samples` of these points.
        heads, units: ablate only these entries of the ``head`` axis, or of the last axis (neurons at
            ``mlp.hook_post``).
        directions: ablate only their span, or these parts of the activation (features of a basis).
        positions, unit: ablate only here; see :func:`hooked_whisper.patching.read_positions`.

    Raises:
        PatchError: a head, unit or position does not exist; directions have another width; ``by`` lacks a point.
    """
    check_by(by)
    check_option("unit", unit, UNITS, PatchError)
    hooks: FwdHooks = []
    for name in model.hook_names(names):
        point = model.hook_dict[name]
        entries = _entries_mask(model, point, heads, units)
        read = point_positions(model, point, positions, unit)
        axis = None if point.sequence_axis is None else point.axes.index(point.sequence_axis)
        if read.spans is not None and axis is None:
            raise PatchError(f"{name} {list(point.axes)} has no positions or tokens: leave out positions=")
        value, value_name = _value(by, point, axis, model), by if isinstance(by, str) else type(by).__name__.lower()
        hooks.append((name, _Ablation(value, value_name, entries, read, axis, _subspaces(directions))))
    return hooks


@dataclass(frozen=True, eq=False, repr=False)
class _Ablation:
    """Hook that replaces the entries, positions and subspaces of an activation by ``value``."""

    value: Callable[[Tensor, HookPoint], Tensor]
    value_name: str
    entries: Tensor | None
    positions: Positions
    time_axis: int | None
    subspaces: Subspaces | None

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        new = self.value(x, hook)
        if self.subspaces is not None:
            source, base = new.expand_as(x)[None], x[None]  # the batch is treated as one more position axis
            for part in range(len(self.subspaces.labels)):
                base = self.subspaces.replaced(base, source, torch.tensor([part]))
            new = base[0]
        mask = torch.ones((), dtype=torch.bool, device=x.device)
        if self.entries is not None:
            mask = mask & self.entries.to(x.device)
        if self.positions.spans is not None:
            assert self.time_axis is not None
            mask = mask & position_mask(self.positions, x, hook, self.time_axis)
        return torch.where(mask, new, x)

    def __repr__(self) -> str:
        parts = "everything"
        if self.entries is not None:
            axes = [axis for axis, size in enumerate(self.entries.shape) if size > 1]
            n_ablated = int(self.entries.sum())
            parts = f"{n_ablated} of {self.entries.numel()} entries"
            if len(axes) == 1:
                parts += f" ({joined(self.entries.flatten().nonzero().flatten().tolist())})"
        if self.subspaces is not None:
            parts += f", only in {counted(len(self.subspaces.labels), 'subspace')}"
        return f"<ablate {parts} by {self.value_name}, at positions: {span_label(self.positions)}>"


def position_mask(positions: Positions, x: Tensor, hook: HookPoint, axis: int) -> Bool[Tensor, "..."]:
    """Return which entries of an activation, along its time axis ``axis``, are at ``positions``; other axes have
    size 1."""
    numbers = hook.first_index + torch.arange(x.shape[axis], device=x.device)
    view = [1] * x.dim()
    view[axis] = -1
    return positions.mask(numbers // hook.steps_per_position).view(view)


def _value(
    by: By, point: HookPoint, time_axis: int | None, model: WhisperCore
) -> Callable[[Tensor, HookPoint], Tensor]:
    """Function of activation and hook point that returns the replacement."""
    check_by(by)
    if isinstance(by, str):
        return lambda x, hook: torch.zeros_like(x)
    if point.name not in by.values:
        near = closest(point.name, by.values)
        raise PatchError(f"by= has no activations of {point.name}, only of {near or sorted(by.values)}: collect them")
    values = by.values[point.name]
    if time_axis is None:
        raise PatchError(f"{point.name} {list(point.axes)} has no positions or tokens: ablate it by 'zero'")
    if isinstance(by, Means):
        return lambda x, hook: values.to(x).unsqueeze(time_axis - 1)
    # one draw per absolute position, the same in a pass of any length
    longest = max(model.cfg.encoder.n_frames, model.cfg.decoder.n_ctx)
    draws = torch.randint(len(values), (longest,), generator=torch.Generator().manual_seed(by.seed))

    def resample(x: Tensor, hook: HookPoint) -> Tensor:
        start = hook.first_index
        rows = values[draws[start : start + x.shape[time_axis]].to(values.device)]
        return rows.to(x).movedim(0, time_axis - 1)[None]

    return resample


def _entries_mask(
    model: WhisperCore, point: HookPoint, heads: Sequence[int] | None, units: Sequence[int] | None
) -> Tensor | None:
    mask: Tensor | None = None
    cfg = model.cfg.encoder if point.stack == "encoder" else model.cfg.decoder
    sizes = {"head": cfg.n_heads, "d_head": cfg.d_head, "d_mlp": cfg.d_mlp, "d_model": cfg.d_model, **point.sizes}
    for kind, entries, axis in (("head", heads, "head"), ("unit", units, point.axes[-1])):
        if entries is None:
            continue
        if axis not in point.axes or axis not in sizes:
            raise PatchError(f"{point.name} {list(point.axes)} has no {kind}s")
        axis_mask = torch.zeros(sizes[axis], dtype=torch.bool)
        axis_mask[list(read_indices(entries, len(axis_mask), f"{kind}s of {point.name}", PatchError))] = True
        view = [1] * len(point.axes)
        view[point.axes.index(axis)] = -1
        mask = axis_mask.view(view) if mask is None else mask & axis_mask.view(view)
    return mask


def _subspaces(directions: Tensor | Subspaces | None) -> Subspaces | None:
    if directions is None or not isinstance(directions, Tensor):
        return directions
    return subspaces_of(torch.atleast_2d(directions)[None])


@renamed_arguments(where="positions")
def ablate_heads(
    model: WhisperCore,
    heads: Sequence[HeadLike],
    *,
    stack: Stack = "encoder",
    by: By = "zero",
    positions: PositionsLike = None,
    unit: str = "positions",
) -> FwdHooks:
    """Return hooks that ablate heads at ``hook_z``, before the output projection.

    heads: ``"encoder 2.3"``, ``"cross 1.0"``, ..., or ``(block, head)`` of ``stack``; see :meth:`HeadRef.parse`.

    Raises:
        PatchError: as :func:`ablate`.
    """
    check_option("stack", stack, STACKS, PatchError)
    check_by(by)
    by_point: dict[str, list[int]] = {}
    for head in read_heads(heads, model.cfg, stack, PatchError):
        by_point.setdefault(f"{head.attn}.hook_z", []).append(head.head)
    return [
        hook
        for name, numbers in by_point.items()
        for hook in ablate(model, name, by=by, heads=numbers, positions=positions, unit=unit)
    ]


@renamed_arguments(where="positions")
def ablate_neurons(
    model: WhisperCore,
    neurons: Sequence[tuple[int, int]],
    *,
    stack: ResidualStack = "encoder",
    by: By = "zero",
    positions: PositionsLike = None,
    unit: str = "positions",
) -> FwdHooks:
    """Return hooks that ablate MLP neurons, given as ``(block, neuron)``, after the GELU.

    Raises:
        PatchError: as :func:`ablate`.
    """
    check_option("stack", stack, ("encoder", "decoder"), PatchError)
    check_by(by)
    by_block: dict[int, list[int]] = {}
    for block, neuron in neurons:
        by_block.setdefault(block, []).append(neuron)
    return [
        hook
        for block, numbers in by_block.items()
        for hook in ablate(
            model, f"{stack}.blocks.{block}.mlp.hook_post", by=by, units=numbers, positions=positions, unit=unit
        )
    ]


@dataclass(frozen=True, eq=False, repr=False)
class HeadSweep(Tabular):
    """The metric with each head ablated in turn, ``[block, head]``, and without ablation (``base``)."""

    values: Float[Tensor, "block head"]
    base: float
    unit: str
    stack: Stack

    def __post_init__(self) -> None:
        check_option("stack", self.stack, STACKS, PatchError)

    @property
    def effect(self) -> Float[Tensor, "block head"]:
        """Change of the metric caused by ablating each head."""
        return self.values - self.base

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per head: stack, block, head, value, effect."""
        effect = self.effect
        return [
            {
                "stack": self.stack,
                "block": block,
                "head": head,
                "value": float(value),
                "effect": float(effect[block, head]),
            }
            for block, row in enumerate(self.values.tolist())
            for head, value in enumerate(row)
        ]

    def summary(self) -> Summary:
        n_blocks, n_heads = self.values.shape
        order = self.effect.abs().flatten().argsort(descending=True)[:8].tolist()
        heads = [HeadRef(self.stack, index // n_heads, index % n_heads) for index in order]
        effect = self.effect
        rows = tuple(
            (head.label, float(self.values[head.block, head.head]), float(effect[head.block, head.head]))
            for head in heads
        )
        title = f"HeadSweep: {n_blocks} blocks x {n_heads} heads ({self.stack})"
        notes = (f"{self.unit} without ablation: {self.base:.4g}", "heads with the largest effect:")
        return Summary(title, notes, ("head", self.unit, "effect"), rows, self.values.numel())

    def plot(self, title: str = "", *, percentile: float | int = 100.0, backend: Backend = "matplotlib") -> Any:
        """Draw the effect of each head, blocks down. ``percentile``: of the sizes, where the colors end."""
        check_backend(backend)
        n_blocks, n_heads = self.values.shape
        return heat_map(
            self.effect.numpy(),
            title=title or f"Effect of ablating each head ({self.stack})",
            x="head",
            y="block",
            unit=f"change ({self.unit})",
            rows=[str(block) for block in range(n_blocks)],
            columns=[str(head) for head in range(n_heads)],
            scale="diverging",
            clip=percentile,
            facecolor="white",
            backend=backend,
        )


@torch.no_grad()
@renamed_arguments(where="positions")
def sweep_heads(
    model: HookedWhisper,
    inputs: RunInputs,
    metric: Metric,
    *,
    stack: Stack = "encoder",
    by: By = "zero",
    positions: PositionsLike = None,
    unit: str = "positions",
) -> HeadSweep:
    """Return the metric of one clip with each head ablated in turn.

    The heads of a block are rows of one batch that resumes at the ablated point; the base run is made once.

    Raises:
        PatchError: as :func:`ablate`; or heads of the encoder are swept but ``inputs`` has no mel.
    """
    check_option("stack", stack, STACKS, PatchError)
    check_by(by)
    n_blocks, n_heads = n_blocks_and_heads(model.cfg, stack)
    names = [f"{attention_name(stack, block)}.hook_z" for block in range(n_blocks)]
    required = [required_name for name in names for required_name in required_activations(model, name)]
    base = cache_run(model, inputs, [*names, *required])
    rows = []
    for name in names:
        point = model.hook_dict[name]
        with point.clock.starting_at(0):
            ablated = [
                ablate(model, name, by=by, heads=[head], positions=positions, unit=unit)[0][1](base[name], point)
                for head in range(n_heads)
            ]
        values = {name: torch.cat(ablated)}
        hidden = resume_from(model, base, values, inputs.tokens, inputs.mel, base["encoder.hook_out"])
        rows.append(read_metric(model, hidden, metric).double().cpu())
    base_metric = float(read_metric(model, base["unembed.hook_in"], metric))
    return HeadSweep(torch.stack(rows), base_metric, metric.unit, stack)
