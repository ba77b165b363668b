"""Activation patching: put parts of one run's activations into another run, many patches per batch.

A patch does not affect earlier activations. Both runs are computed once, and every patched row resumes at its patch
(:mod:`hooked_whisper.patching.resume`): a patch in the decoder never runs the encoder, and a patch in encoder block L
runs only what follows it. The rows of a batch hold different patches.

Sources: Heimersheim & Nanda 2024 (arXiv 2404.15255), Zhang & Nanda 2023 (arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper.errors import PatchError
from hooked_whisper.hooks import HookPoint
from hooked_whisper.patching.grid import Patch
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.resume import required_activations, resume_from
from hooked_whisper.patching.runs import PatchedMetric, RunInputs, cache_run

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ENCODER_ROWS, ENCODER_ROWS_ON_CPU, DECODER_ROWS = 16, 2, 64  # on a CPU more encoder rows overflow the caches


@torch.no_grad()
def run_patches(
    model: HookedWhisper,
    patches: Sequence[Patch],
    base: RunInputs,
    source: RunInputs,
    metric: Metric,
    *,
    encoder_rows: int | None = None,
    decoder_rows: int = DECODER_ROWS,
    progress: bool = False,
) -> PatchedMetric:
    """Return the metric of the base run with each patch in turn, its activations taken from the source run.

    encoder_rows, decoder_rows: patches per batch (default in the encoder: 2 on a CPU, else 16); memory grows with them.

    Raises:
        PatchError: the runs have different shapes, a point cannot be patched, or an index is out of range.
    """
    if encoder_rows is None:
        encoder_rows = ENCODER_ROWS_ON_CPU if model.device.type == "cpu" else ENCODER_ROWS
    names = list(dict.fromkeys(name for patch in patches for name in patch.names))
    for point in map(model.hook_dict.__getitem__, names):
        if point.axes[0] != "batch":
            raise PatchError(f"{point.name} has axes {list(point.axes)}: without a batch axis it cannot be patched")
    source_cache = cache_run(model, source, names)
    required = [required_name for name in names for required_name in required_activations(model, name)]
    base_cache = cache_run(model, base, [*names, *required])
    encoder_out = base_cache["encoder.hook_out"]
    values = torch.empty(len(patches), dtype=torch.float64)
    batches = list(_batches(patches, encoder_rows, decoder_rows))
    for indices in tqdm(batches, desc="patching", disable=not progress, leave=False):
        batch = [patches[i] for i in indices]
        replaced = {
            name: patched_rows(batch, base_cache[name], source_cache[name], model.hook_dict[name])
            for name in batch[0].names
        }
        hidden = resume_from(model, base_cache, replaced, base.tokens, base.mel, encoder_out)
        values[indices] = read_metric(model, hidden, metric).double().cpu()
    ends = [float(read_metric(model, cache["unembed.hook_in"], metric)) for cache in (base_cache, source_cache)]
    return PatchedMetric(values, *ends)


def patched_rows(
    patches: Sequence[Patch], base: Float[Tensor, "1 ..."], source: Float[Tensor, "1 ..."], point: HookPoint
) -> Float[Tensor, "row ..."]:
    """Return one row per patch (all of one point): ``base`` with the patch's part taken from ``source``.

    Raises:
        PatchError: ``base`` and ``source`` have different shapes.
    """
    if base.shape != source.shape:
        raise PatchError(
            f"{point.name}: shape {tuple(base.shape)} in the base run, {tuple(source.shape)} in the source run"
        )
    masks = torch.stack([patch.mask(point, source.shape) for patch in patches]).to(source.device)
    return torch.where(masks, _replacements(patches, base, source), base)


def _replacements(patches: Sequence[Patch], base: Tensor, source: Tensor) -> Tensor:
    """Return the patched values: the source, or the base with some directions or features of the source."""
    first = patches[0]
    if first.subspaces is not None and all(patch.subspaces is first.subspaces for patch in patches):
        return first.subspaces.replaced(base, source, torch.tensor([patch.part for patch in patches]))
    if all(patch.directions is first.directions and patch.subspaces is None for patch in patches):  # one grid
        return source if first.directions is None else base + first.project(source - base)
    return torch.cat([_replacements([patch], base, source) for patch in patches])


def _batches(patches: Sequence[Patch], encoder_rows: int, decoder_rows: int) -> Iterator[list[int]]:
    """Yield indices of patches of the same points, in batches."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, patch in enumerate(patches):
        groups.setdefault(patch.names, []).append(index)
    for names, indices in groups.items():
        size = encoder_rows if names[0].startswith("encoder.") else decoder_rows
        yield from (indices[start : start + size] for start in range(0, len(indices), size))
