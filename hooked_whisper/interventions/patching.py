"""Activation patching: put parts of one run's activations into another run, many patches per batch.

A patch changes nothing before its block. So both runs are made once, and every patched row starts from the kept
residual that enters the block it is in: a patch in the decoder never runs the encoder, a patch in encoder block L runs
the blocks from L on. Rows of a batch hold different patches.

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

from hooked_whisper.errors import PatchError
from hooked_whisper.interventions.metrics import Metric, read_metric
from hooked_whisper.interventions.results import Direction, PatchResult
from hooked_whisper.interventions.sites import Grid, Patch, Span, Stack, make_grid

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ENCODER_ROWS, DECODER_ROWS = 8, 64


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


@dataclass(frozen=True, eq=False)
class Patched:
    """The metric of every patch of a grid, of the base run and of the run patches come from."""

    values: Float[Tensor, "patch"]
    base: float
    source: float


def _begins(model: HookedWhisper, name: str) -> tuple[Stack, int]:
    """Stack and block where a pass with this patch must begin; -1: at the input, ``n_layers``: at the final norm."""
    parts = name.split(".")
    if parts[0] not in ("encoder", "decoder"):
        raise PatchError(f"{name} cannot be patched by a sweep: the metric reads before it")
    stack: Stack = "encoder" if parts[0] == "encoder" else "decoder"
    if parts[1] == "blocks":
        return stack, int(parts[2])
    last = ("ln_post", "hook_out") if stack == "encoder" else ("ln_final",)
    n = (model.cfg.encoder if stack == "encoder" else model.cfg.decoder).n_layers
    return stack, n if parts[1] in last else -1


def _entering(model: HookedWhisper, stack: Stack, block: int) -> str:
    n = (model.cfg.encoder if stack == "encoder" else model.cfg.decoder).n_layers
    return f"{stack}.blocks.{block}.hook_resid_pre" if block < n else f"{stack}.blocks.{n - 1}.hook_resid_post"


def keep(model: HookedWhisper, inputs: Inputs, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Activations of one run, the decoder's last hidden state (``unembed.hook_in``) with them."""
    wanted = list(dict.fromkeys([*names, "unembed.hook_in"]))
    given = {"mel": inputs.mel} if inputs.mel is not None else {"encoder_out": inputs.encoder_out}
    if inputs.mel is None and any(name.startswith("encoder.") for name in wanted):
        raise PatchError("patches in the encoder need runs with a mel")
    _, cache = model.run_with_cache(tokens=inputs.tokens, names=wanted, return_type=None, **given)
    return {name: cache[name] for name in wanted}


def patch_hook(
    patches: Sequence[Patch], rows: Sequence[int], source: Tensor, model: HookedWhisper
) -> Callable[[Tensor], Tensor]:
    """A hook that puts ``source`` (one row) into row ``rows[i]`` as ``patches[i]``, all of one point, says."""
    point = model.hook_dict[patches[0].name]
    if point.axes[0] != "batch":
        raise PatchError(f"{point.name} has no batch axis ({list(point.axes)}): rows cannot differ there")
    masks = torch.stack([p.mask(point, source.shape) for p in patches]).to(source.device)
    index = torch.tensor(list(rows), device=source.device)

    def hook(x: Tensor) -> Tensor:
        own = x[index]
        new = source.to(own.dtype).expand_as(own)
        if any(p.directions is not None for p in patches):
            new = torch.stack([o + p.project(n - o) for p, o, n in zip(patches, own, new, strict=True)])
        return x.index_copy(0, index, torch.where(masks, new, own))

    return hook


@torch.no_grad()
def run_patches(
    model: HookedWhisper,
    patches: Sequence[Patch],
    base: Inputs,
    source: Inputs,
    metric: Metric,
    *,
    encoder_rows: int = ENCODER_ROWS,
    decoder_rows: int = DECODER_ROWS,
    progress: bool = False,
) -> Patched:
    """The metric of the base run with each patch in turn, its activations taken from the source run.

    ``encoder_rows`` and ``decoder_rows`` patches share one batch; memory grows with them.

    Raises:
        PatchError: runs of different shapes, a point that cannot be patched, an index outside a point's axes.
    """
    begins = [_begins(model, patch.name) for patch in patches]
    names = list(dict.fromkeys(patch.name for patch in patches))
    theirs = keep(model, source, names)
    needed = [_entering(model, stack, block) for stack, block in dict.fromkeys(begins) if block >= 0]
    own = keep(model, base, [*needed, *(["encoder.hook_out"] if base.mel is not None else [])])
    encoder_out = own["encoder.hook_out"] if base.encoder_out is None else base.encoder_out
    values = torch.empty(len(patches), dtype=torch.float64)
    groups = list(_batches(begins, encoder_rows, decoder_rows))
    for (stack, block), chosen in tqdm(groups, desc="patching", disable=not progress, leave=False):
        some = [patches[i] for i in chosen]
        resid = own[_entering(model, stack, block)] if block >= 0 else None
        with model.hooks(fwd_hooks=_hooks(model, some, theirs)):
            hidden = _rest(model, base, encoder_out, stack, block, resid, some)
        values[chosen] = read_metric(model, hidden, metric).double().cpu()
    ends = [float(read_metric(model, kept["unembed.hook_in"], metric)) for kept in (own, theirs)]
    return Patched(values, *ends)


def _batches(
    begins: Sequence[tuple[Stack, int]], encoder_rows: int, decoder_rows: int
) -> Iterator[tuple[tuple[Stack, int], list[int]]]:
    """Indices of patches that begin at the same block, in batches."""
    for begin in dict.fromkeys(begins):
        chosen = [i for i, one in enumerate(begins) if one == begin]
        size = encoder_rows if begin[0] == "encoder" else decoder_rows
        yield from ((begin, chosen[at : at + size]) for at in range(0, len(chosen), size))


def _hooks(
    model: HookedWhisper, patches: Sequence[Patch], source: Mapping[str, Tensor]
) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    found = []
    for name in dict.fromkeys(p.name for p in patches):
        rows = [i for i, p in enumerate(patches) if p.name == name]
        found.append((name, patch_hook([patches[i] for i in rows], rows, source[name], model)))
    return found


def _rest(
    model: HookedWhisper,
    base: Inputs,
    encoder_out: Tensor,
    stack: Stack,
    block: int,
    resid: Tensor | None,
    patches: Sequence[Patch],
) -> Float[Tensor, "row token d_model"]:
    """What is left to compute of a pass with one row per patch."""
    n = len(patches)

    def rows(x: Tensor) -> Tensor:
        return x.expand(n, *x.shape[1:])

    if stack == "encoder":
        if resid is None:
            assert base.mel is not None  # keep() has said so already
            encoded = model.encoder(rows(base.mel))
        else:
            encoded = model.encoder.from_resid(rows(resid), block)
        return model.decoder.hidden(rows(base.tokens), encoded)
    # keys and values of cross-attention differ between rows only if they are patched themselves
    if any(".cross_attn.hook_k" in p.name or ".cross_attn.hook_v" in p.name for p in patches):
        encoder_out = rows(encoder_out)
    if resid is None:
        return model.decoder.hidden(rows(base.tokens), encoder_out)
    return model.decoder.from_resid(rows(resid), block, encoder_out)


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
) -> Grid:
    """The grid of a pair: its own spans where the component runs over encoder positions, ``token_spans`` where it runs
    over tokens."""
    over_positions = stack == "encoder" or component in ("cross_k", "cross_v")
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
        directions: ``[k, d]``: only what lies in their span.

    Raises:
        PatchError: no pairs, or pairs whose grids differ in shape.
    """
    if not pairs:
        raise PatchError("there are no pairs to patch")
    values, base, source, axes = [], [], [], None
    for pair in tqdm(pairs, desc=f"patching {component}", disable=not progress, leave=False):
        grid = grid_of(
            model, pair, component, stack, blocks=blocks, by_span=by_span, token_spans=token_spans,
            per_head=per_head, units=units, directions=directions,
        )  # fmt: skip
        axes = grid.axes if axes is None else axes
        if grid.shape != tuple(len(a.labels) for a in axes):
            raise PatchError(f"pair {pair.label!r} has a grid of {grid.shape}, the first one of another shape")
        runs = (pair.corrupt, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupt)
        done = (sweep or _exact)(model, grid, *runs, pair.metric)
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


def with_spans(pairs: Sequence[Pair], spans: Sequence[Span]) -> tuple[Pair, ...]:
    """The same pairs with other spans."""
    return tuple(replace(pair, spans=tuple(spans)) for pair in pairs)
