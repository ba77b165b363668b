"""Activation patching: put parts of one run's activations into another run, many patches per batch.

A patch changes nothing that comes before it. So both runs are made once, and every patched row is taken up where the
patch is (:mod:`hooked_whisper.patching.resume`): a patch in the decoder never runs the encoder, a patch in encoder
block L runs what follows it. Rows of a batch hold different patches.

Source: Heimersheim & Nanda 2024 (arXiv 2404.15255), Zhang & Nanda 2023 (arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import STACKS, Grid, Patch, Span, Stack, make_grid
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.results import DIRECTIONS, Direction, PatchResult
from hooked_whisper.patching.resume import needed, run_from
from hooked_whisper.patching.subspaces import Subspaces

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ENCODER_ROWS, ENCODER_ROWS_ON_CPU, DECODER_ROWS = 16, 2, 64  # a CPU's caches hold no more


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one run gets: one clip's mel, or its encoder output if that is there already, and decoder tokens."""

    tokens: Int[Tensor, "1 token"]
    mel: Float[Tensor, "1 mel frame"] | None = None
    encoder_out: Float[Tensor, "1 position d_model"] | None = None

    def __post_init__(self) -> None:
        if (self.mel is None) == (self.encoder_out is None):
            raise PatchError("a run needs either a mel or an encoder output")


@dataclass(frozen=True, eq=False)
class Pair:
    """A clean run, a corrupt run of the same shape, what to measure, and the spans of encoder positions to patch."""

    clean: Inputs
    corrupt: Inputs
    metric: Metric
    spans: tuple[Span, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        a, b = self.clean.tokens.shape, self.corrupt.tokens.shape
        if a != b:
            raise PatchError(f"pair {self.label!r}: {a[1]} clean and {b[1]} corrupt tokens: they must be as many")

    def runs(self, direction: Direction) -> tuple[Inputs, Inputs]:
        """The run that is patched, and the run that patches come from."""
        check_option("direction", direction, DIRECTIONS, PatchError)
        return (self.corrupt, self.clean) if direction == "denoise" else (self.clean, self.corrupt)


@dataclass(frozen=True, eq=False)
class Patched:
    """The metric of every patch of a grid, of the base run and of the run patches come from."""

    values: Float[Tensor, "patch"]
    base: float
    source: float


def keep(model: HookedWhisper, inputs: Inputs, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Activations of one run, with them the encoder's output and the decoder's last hidden state (``unembed.hook_in``).

    Raises:
        PatchError: activations inside the encoder, of a run that has only its output.
    """
    wanted = list(dict.fromkeys([*names, "encoder.hook_out", "unembed.hook_in"]))
    if inputs.encoder_out is None:
        _, cache = model.run_with_cache(inputs.mel, inputs.tokens, names=wanted, return_type=None)
        return {name: cache[name] for name in wanted}
    wanted.remove("encoder.hook_out")
    inside = [name for name in wanted if name.startswith("encoder.")]
    if inside:
        raise PatchError(f"{inside[0]}: patches in the encoder need runs with a mel")
    given = inputs.encoder_out
    _, cache = model.run_with_cache(tokens=inputs.tokens, encoder_out=given, names=wanted, return_type=None)
    return {name: cache[name] for name in wanted} | {"encoder.hook_out": given}


def patched(
    patches: Sequence[Patch], base: Float[Tensor, "1 ..."], source: Float[Tensor, "1 ..."], point: HookPoint
) -> Float[Tensor, "row ..."]:
    """``base`` once per patch (all of one point), with its part taken from ``source``."""
    if base.shape != source.shape:
        raise PatchError(f"{point.name}: {tuple(base.shape)} in one run, {tuple(source.shape)} in the other")
    masks = torch.stack([p.mask(point, source.shape) for p in patches]).to(source.device)
    return torch.where(masks, _parts(patches, base, source), base)


def _parts(patches: Sequence[Patch], base: Tensor, source: Tensor) -> Tensor:
    """What each patch puts in: the source, or the base with only some directions or a feature from the source."""
    first = patches[0]
    if first.subspaces is not None and all(p.subspaces is first.subspaces for p in patches):
        return first.subspaces.replaced(base, source, torch.tensor([p.part for p in patches]))
    if all(p.directions is first.directions and p.subspaces is None for p in patches):  # nearly always: one grid
        return source if first.directions is None else base + first.project(source - base)
    return torch.cat([_parts([p], base, source) for p in patches])


@torch.no_grad()
def run_patches(
    model: HookedWhisper,
    patches: Sequence[Patch],
    base: Inputs,
    source: Inputs,
    metric: Metric,
    *,
    encoder_rows: int | None = None,
    decoder_rows: int = DECODER_ROWS,
    progress: bool = False,
) -> Patched:
    """The metric of the base run with each patch in turn, its activations taken from the source run.

    ``encoder_rows`` (default: 2 on a CPU, else 16) and ``decoder_rows`` patches share one batch, which takes memory.

    Raises:
        PatchError: runs of different shapes, a point that cannot be patched, an index outside a point's axes.
    """
    if encoder_rows is None:
        encoder_rows = ENCODER_ROWS_ON_CPU if model.device.type == "cpu" else ENCODER_ROWS
    names = list(dict.fromkeys(name for patch in patches for name in patch.names))
    for point in map(model.hook_dict.__getitem__, names):
        if point.axes[0] != "batch":
            raise PatchError(f"{point.name} has no batch axis ({list(point.axes)}): rows cannot differ there")
    theirs = keep(model, source, names)
    own = keep(model, base, [*names, *(n for name in names for n in needed(model, name))])
    encoder_out = own["encoder.hook_out"]
    values = torch.empty(len(patches), dtype=torch.float64)
    groups = list(_batches(patches, encoder_rows, decoder_rows))
    for chosen in tqdm(groups, desc="patching", disable=not progress, leave=False):
        some = [patches[i] for i in chosen]
        new = {n: patched(some, own[n], theirs[n], model.hook_dict[n]) for n in some[0].names}
        hidden = run_from(model, own, new, base.tokens, base.mel, encoder_out)
        values[chosen] = read_metric(model, hidden, metric).double().cpu()
    ends = [float(read_metric(model, kept["unembed.hook_in"], metric)) for kept in (own, theirs)]
    return Patched(values, *ends)


def _batches(patches: Sequence[Patch], encoder_rows: int, decoder_rows: int) -> Iterator[list[int]]:
    """Indices of patches of the same points, in batches."""
    of: dict[tuple[str, ...], list[int]] = {}
    for index, patch in enumerate(patches):
        of.setdefault(patch.names, []).append(index)
    for names, chosen in of.items():
        size = encoder_rows if names[0].startswith("encoder.") else decoder_rows
        yield from (chosen[at : at + size] for at in range(0, len(chosen), size))


def grid_of(
    model: HookedWhisper,
    pair: Pair,
    component: str,
    stack: Stack,
    *,
    blocks: Sequence[int] | None = None,
    by_span: bool = True,
    token_spans: Sequence[Span] | None = None,
    per_head: bool = False,
    units: Sequence[int] | None = None,
    directions: Float[Tensor, "k d"] | None = None,
    subspaces: Subspaces | None = None,
) -> Grid:
    """The grid of a pair: its own spans where the component runs over encoder positions, ``token_spans`` where it runs
    over tokens."""
    check_option("stack", stack, STACKS, PatchError)
    over_positions = stack == "encoder" or component in ("cross_k", "cross_v", "cross_kv")
    spans: Sequence[Span] | None = (pair.spans or None) if over_positions else token_spans
    return make_grid(
        model,
        component,
        stack,
        blocks=blocks,
        spans=spans if by_span else None,
        per_head=per_head,
        units=units,
        directions=directions,
        subspaces=subspaces,
    )


Sweep = Callable[["HookedWhisper", Grid, Inputs, Inputs, Metric], Patched]


def patch_pairs(
    model: HookedWhisper,
    pairs: Sequence[Pair],
    component: str,
    stack: Stack,
    *,
    direction: Direction = "denoise",
    blocks: Sequence[int] | None = None,
    by_span: bool = True,
    token_spans: Sequence[Span] | None = None,
    per_head: bool = False,
    units: Sequence[int] | None = None,
    directions: Float[Tensor, "k d"] | None = None,
    subspaces: Subspaces | None = None,
    progress: bool = False,
    sweep: Sweep | None = None,
) -> PatchResult:
    """Patch one component everywhere, in every pair: blocks by spans by heads by units, as far as asked.

    Args:
        component: ``"resid_pre"``, ``"z"``, ``"cross_v"``, ... (:data:`COMPONENTS`), or a full hook name.
        direction: ``"denoise"`` puts clean activations into the corrupt run, ``"noise"`` corrupt ones into the clean.
        by_span: one patch per span (else all positions or tokens at once).
        token_spans: the spans of decoder components (:func:`token_spans`).
        per_head, units: one patch per head, per entry of the last axis.
        directions: ``[k, d]``: only what lies in their span. subspaces: one patch for each of these directions or
            features (:func:`hooked_whisper.interventions.subspaces_of`).

    Raises:
        PatchError: no pairs, or pairs whose grids differ in shape.
    """
    check_option("direction", direction, DIRECTIONS, PatchError)
    check_option("stack", stack, STACKS, PatchError)
    if not pairs:
        raise PatchError("there are no pairs to patch")
    values, base, source, axes = [], [], [], None
    for pair in tqdm(pairs, desc=f"patching {component}", disable=not progress, leave=False):
        grid = grid_of(
            model, pair, component, stack, blocks=blocks, by_span=by_span, token_spans=token_spans,
            per_head=per_head, units=units, directions=directions, subspaces=subspaces,
        )  # fmt: skip
        axes = grid.axes if axes is None else axes
        if grid.shape != tuple(len(a.labels) for a in axes):
            raise PatchError(f"pair {pair.label!r} has a grid of {grid.shape}, the first one of another shape")
        base_run, source_run = pair.runs(direction)
        done = (sweep or _exact)(model, grid, base_run, source_run, pair.metric)
        values.append(done.values.numpy().reshape(grid.shape))
        base.append(done.base)
        source.append(done.source)
    assert axes is not None
    return PatchResult(
        axes=axes,
        values=np.stack(values),
        base=np.array(base),
        source=np.array(source),
        unit=pairs[0].metric.unit,
        direction=direction,
        site=component if "." in component else f"{stack} {component}",
        pairs=tuple(pair.label or str(i) for i, pair in enumerate(pairs)),
    )


def _exact(model: HookedWhisper, grid: Grid, base: Inputs, source: Inputs, metric: Metric) -> Patched:
    return run_patches(model, grid.patches, base, source, metric)


patch_encoder_resid = partial(patch_pairs, component="resid_pre", stack="encoder")
patch_encoder_attn_out = partial(patch_pairs, component="attn_out", stack="encoder")
patch_encoder_mlp_out = partial(patch_pairs, component="mlp_out", stack="encoder")
patch_encoder_heads = partial(patch_pairs, component="z", stack="encoder", per_head=True)
patch_encoder_neurons = partial(patch_pairs, component="mlp_post", stack="encoder", by_span=False)
patch_encoder_out = partial(patch_pairs, component="encoder.hook_out", stack="encoder")
patch_decoder_resid = partial(patch_pairs, component="resid_pre", stack="decoder")
patch_decoder_resid_mid = partial(patch_pairs, component="resid_mid", stack="decoder")
patch_decoder_resid_mid_cross = partial(patch_pairs, component="resid_mid_cross", stack="decoder")
patch_decoder_resid_post = partial(patch_pairs, component="resid_post", stack="decoder")
patch_decoder_attn_out = partial(patch_pairs, component="attn_out", stack="decoder")
patch_cross_attn_out = partial(patch_pairs, component="cross_attn_out", stack="decoder")
patch_decoder_mlp_out = partial(patch_pairs, component="mlp_out", stack="decoder")
patch_decoder_heads = partial(patch_pairs, component="z", stack="decoder", per_head=True)
patch_cross_heads = partial(patch_pairs, component="cross_z", stack="decoder", per_head=True)
patch_cross_keys = partial(patch_pairs, component="cross_k", stack="decoder")
patch_cross_values = partial(patch_pairs, component="cross_v", stack="decoder")
patch_cross_keys_values = partial(patch_pairs, component="cross_kv", stack="decoder")


def with_spans(pairs: Sequence[Pair], spans: Sequence[Span]) -> tuple[Pair, ...]:
    """The same pairs with other spans."""
    return tuple(replace(pair, spans=tuple(spans)) for pair in pairs)
