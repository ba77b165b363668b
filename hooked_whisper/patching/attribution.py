"""Attribution patching: a first-order estimate of every patch of a grid.

The estimate is ``(source - base) * gradient``, summed over what the patch would replace. It takes one forward pass of
each run and one backward pass. :func:`hooked_whisper.patching.agreement` measures how good it is.

Sources: Nanda 2023, "Attribution patching"; Kramar et al. 2024 (arXiv 2403.00745).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import Patch, PatchGrid
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.runs import PatchedMetric, RunInputs, cache_run

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

_MASKS_PER_PRODUCT = 32


def attribute_patches(
    model: HookedWhisper, grid: PatchGrid, base: RunInputs, source: RunInputs, metric: Metric
) -> PatchedMetric:
    """Estimate :func:`run_patches`: the base metric plus the first-order effect of each patch."""
    names = list(dict.fromkeys(name for patch in grid.patches for name in patch.names))
    with torch.no_grad():
        source_cache = cache_run(model, source, names)
        source_metric = float(read_metric(model, source_cache["unembed.hook_in"], metric))
    base_cache, gradients, base_metric = _gradients(model, base, names, metric)
    values = torch.full((len(grid.patches),), base_metric, dtype=torch.float64)
    for name in names:
        of_name = [i for i, patch in enumerate(grid.patches) if name in patch.names]
        for start in range(0, len(of_name), _MASKS_PER_PRODUCT):
            indices = of_name[start : start + _MASKS_PER_PRODUCT]
            patches = [grid.patches[i] for i in indices]
            values[indices] += _first_order(
                model.hook_dict[name], patches, base_cache[name], source_cache[name], gradients[name]
            )
    return PatchedMetric(values, base_metric, source_metric)


def _first_order(point: HookPoint, patches: list[Patch], base: Tensor, source: Tensor, gradient: Tensor) -> Tensor:
    """Return ``[patch]``: difference times gradient, summed over each patch's entries."""
    masks = torch.stack([patch.mask(point, base.shape) for patch in patches]).to(base.device)
    first = patches[0]  # all patches of a grid share directions and subspaces
    if first.subspaces is not None:
        # features may not be linear in the entries: the subspaces sum over the last axis themselves
        products = first.subspaces.products(base, source.to(base.dtype), gradient).double()
        parts = products[[patch.part for patch in patches]]
        return (masks[..., 0] * parts).flatten(1).sum(1).cpu()
    product = (first.project(source.to(base.dtype) - base) * gradient)[0].double()
    # sum first over the axes that no patch restricts: the masks have size 1 there
    unrestricted = [axis for axis in range(product.dim()) if masks.shape[axis + 1] == 1]
    product = product.sum(unrestricted, keepdim=True) if unrestricted else product
    return (masks * product).flatten(1).sum(1).cpu()


def _gradients(
    model: HookedWhisper, base: RunInputs, names: list[str], metric: Metric
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Return activations of the base run, the gradients of the metric with respect to them, and the metric."""
    cache: dict[str, Tensor] = {}

    def read(x: Tensor, hook: HookPoint) -> Tensor | None:
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        cache[hook.name] = x
        return x

    with torch.enable_grad(), model.hooks(fwd_hooks=[(names, read)]):
        if base.encoder_out is not None:
            encoder_out = model.encoder.hook_out(base.encoder_out)  # so that the reader sees it
        else:
            encoder_out = model.encoder(base.mel)
        value = read_metric(model, model.decoder.hidden(base.tokens, encoder_out), metric)[0]
        gradients = torch.autograd.grad(value, [cache[name] for name in names], allow_unused=True)
    by_name = {
        name: torch.zeros_like(cache[name]) if gradient is None else gradient
        for name, gradient in zip(names, gradients, strict=True)
    }
    return {name: x.detach() for name, x in cache.items()}, by_name, float(value.detach())
