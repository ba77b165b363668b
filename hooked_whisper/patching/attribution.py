"""Attribution patching: every patch of a grid at once, to first order.

``(source - base) * gradient`` summed over what a patch would replace estimates its effect, from one forward pass of
each run and one backward pass. It is an estimate: :func:`hooked_whisper.interventions.agreement` measures how good.

Source: Nanda 2023, "Attribution patching"; Kramar et al. 2024 (arXiv 2403.00745).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import Grid, Patch
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.patch import Inputs, Patched, keep, patch_pairs

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

_AT_ONCE = 32  # patches whose masks share one product


def attribute_patches(model: HookedWhisper, grid: Grid, base: Inputs, source: Inputs, metric: Metric) -> Patched:
    """The same numbers as :func:`run_patches`, estimated: the base metric plus each patch's first-order effect."""
    names = list(dict.fromkeys(name for patch in grid.patches for name in patch.names))
    with torch.no_grad():
        theirs = keep(model, source, names)
        end = float(read_metric(model, theirs["unembed.hook_in"], metric))
    own, gradient, start = _gradients(model, base, names, metric)
    values = torch.full((len(grid.patches),), start, dtype=torch.float64)
    for name in names:
        chosen = [i for i, patch in enumerate(grid.patches) if name in patch.names]
        for at in range(0, len(chosen), _AT_ONCE):
            some = chosen[at : at + _AT_ONCE]
            patches = [grid.patches[i] for i in some]
            values[some] += _first_order(model.hook_dict[name], patches, own[name], theirs[name], gradient[name])
    return Patched(values, start, end)


def _first_order(point: HookPoint, patches: list[Patch], own: Tensor, theirs: Tensor, gradient: Tensor) -> Tensor:
    """``[patch]``: sum over each patch's entries of difference times gradient."""
    masks = torch.stack([p.mask(point, own.shape) for p in patches]).to(own.device)
    first = patches[0]  # one grid, one set of directions
    if first.subspaces is not None:
        # features may not add up entry by entry: the sum over the last axis is taken by them
        products = first.subspaces.products(own, theirs.to(own.dtype), gradient).double()
        part = products[[p.part for p in patches]]
        return (masks[..., 0] * part).flatten(1).sum(1).cpu()
    product = (first.project(theirs.to(own.dtype) - own) * gradient)[0].double()
    # sum first over the axes that no patch restricts: the masks have size 1 there
    whole = [axis for axis in range(product.dim()) if masks.shape[axis + 1] == 1]
    product = product.sum(whole, keepdim=True) if whole else product
    return (masks * product).flatten(1).sum(1).cpu()


def _gradients(
    model: HookedWhisper, base: Inputs, names: list[str], metric: Metric
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Activations of the base run, the metric's gradients with respect to them, and the metric."""
    kept: dict[str, Tensor] = {}

    def reader(x: Tensor, hook: HookPoint) -> Tensor | None:
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        kept[hook.name] = x
        return x

    with torch.enable_grad(), model.hooks(fwd_hooks=[(names, reader)]):
        if base.encoder_out is not None:
            encoder_out = model.encoder.hook_out(base.encoder_out)  # so that the reader sees it
        else:
            encoder_out = model.encoder(base.mel)
        value = read_metric(model, model.decoder.hidden(base.tokens, encoder_out), metric)[0]
        gradients = torch.autograd.grad(value, [kept[name] for name in names], allow_unused=True)
    found = {name: torch.zeros_like(kept[name]) if g is None else g for name, g in zip(names, gradients, strict=True)}
    return {name: x.detach() for name, x in kept.items()}, found, float(value.detach())


attribute_pairs = partial(patch_pairs, sweep=attribute_patches)
"""As :func:`patch_pairs`, by attribution: same arguments, same kind of result."""
