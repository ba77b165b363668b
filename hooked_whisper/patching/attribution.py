"""Attribution patching: a first-order estimate of every patch of a grid.

The estimate is ``(source - base) * gradient``, summed over what the patch would replace. It takes one forward pass of
each run and one backward pass, for any number of patches. Memory: that of the backward pass, and three times the
activations of the patched points. :func:`hooked_whisper.patching.agreement` measures how good it is.

Sources: Nanda 2023, "Attribution patching"; Kramar et al. 2024 (arXiv 2403.00745).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import Patch, PatchGrid
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.runs import PatchedMetric, RunInputs, cache_run

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

_PATCHES_PER_SUM = 4096  # bounds the sums over all combinations of their selections


def attribute_patches(
    model: HookedWhisper, grid: PatchGrid, base: RunInputs, source: RunInputs, metric: Metric
) -> PatchedMetric:
    """Estimate :func:`run_patches`: the base metric plus the first-order effect of each patch."""
    of_name: dict[str, list[int]] = {}
    for number, patch in enumerate(grid.patches):
        for name in patch.names:
            of_name.setdefault(name, []).append(number)
    names = list(of_name)
    with torch.no_grad():
        source_cache = cache_run(model, source, names)
        source_metric = float(read_metric(model, source_cache["unembed.hook_in"], metric))
    base_cache, gradients, base_metric = _gradients(model, base, names, metric)
    values = torch.full((len(grid.patches),), base_metric, dtype=torch.float64)
    for name, numbers in of_name.items():
        products = _products(grid.patches[numbers[0]], base_cache[name], source_cache[name], gradients[name])
        for start in range(0, len(numbers), _PATCHES_PER_SUM):
            batch = numbers[start : start + _PATCHES_PER_SUM]
            values[batch] += _sums(model.hook_dict[name], [grid.patches[number] for number in batch], products)
    return PatchedMetric(values, base_metric, source_metric)


def _products(
    patch: Patch, base: Float[Tensor, "1 ..."], source: Float[Tensor, "1 ..."], gradient: Float[Tensor, "1 ..."]
) -> Float[Tensor, "part ..."]:
    """Return difference times gradient. All patches of a grid share directions and subspaces; without subspaces there
    is one part. Subspaces sum over the last axis themselves, since features need not be entries of it."""
    if patch.subspaces is not None:
        return patch.subspaces.products(base, source.to(base.dtype), gradient).double()[..., None]
    return (patch.project(source.to(base.dtype) - base) * gradient).double()


def _sums(point: HookPoint, patches: Sequence[Patch], products: Float[Tensor, "part ..."]) -> Float[Tensor, "patch"]:
    """Return the sum of ``products`` over the entries of each patch.

    Each axis is contracted with the distinct selections of the patches, so the time hardly depends on their number.
    """
    indices = [torch.tensor([patch.part for patch in patches])]
    sums = products
    for axis, name in enumerate(point.axes[1:], start=1):
        size = sums.shape[axis]
        distinct: dict[int, int] = {}  # by identity, since the patches of a grid share their selections
        first: list[Patch] = []
        of_patch = []
        for patch in patches:
            key = id(patch.indices[name]) if size > 1 and name in patch.indices else 0
            if key not in distinct:
                distinct[key] = len(first)
                first.append(patch)
            of_patch.append(distinct[key])
        masks = torch.stack([patch.axis_mask(name, size) for patch in first]) if size > 1 else torch.ones(1, 1)
        sums = torch.movedim(torch.tensordot(masks.to(sums), sums, dims=([1], [axis])), 0, axis)
        indices.append(torch.tensor(of_patch))
    return sums[tuple(index.to(sums.device) for index in indices)].cpu()


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
