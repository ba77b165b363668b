"""Activation patching: put parts of one run's activations into another run, many patches per batch.

A patch does not affect earlier activations. Both runs are computed once, and every patched row resumes at its patch
(:mod:`hooked_whisper.patching.resume`): a patch in the decoder never runs the encoder, and a patch in encoder block L
runs only what follows it (:mod:`hooked_whisper.patching.encoder_sweep`). The rows of a batch hold different patches.

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
from hooked_whisper.patching.encoder_sweep import EncoderSweep
from hooked_whisper.patching.grid import Patch
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.replacements import patched_rows
from hooked_whisper.patching.resume import required_activations, resume_from
from hooked_whisper.patching.runs import PatchedMetric, RunInputs, cache_run
from hooked_whisper.patching.short_decoder import decode_over

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ENCODER_ROWS, ENCODER_ROWS_ON_CPU, DECODER_ROWS = 16, 2, 64  # on a CPU more encoder rows overflow the caches
_ENCODED_ROWS = 8  # encoder outputs per decoder pass


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
    values = torch.empty(len(patches), dtype=torch.float64)
    sweep = EncoderSweep(model, base_cache, source_cache, encoder_rows)
    with tqdm(total=len(patches), desc="patching", disable=not progress, leave=False) as bar:
        for numbers, hidden in _hidden(sweep, patches, base, decoder_rows, metric.at):
            values[numbers] = read_metric(model, hidden, metric).double().cpu()
            bar.update(len(numbers))
    ends = [float(read_metric(model, cache["unembed.hook_in"], metric)) for cache in (base_cache, source_cache)]
    return PatchedMetric(values, *ends)


def _hidden(
    sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs, decoder_rows: int, at: Sequence[int]
) -> Iterator[tuple[list[int], Float[Tensor, "row token d_model"]]]:
    """Yield the decoder's last hidden state with the numbers of its patches, which are of the same points."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, patch in enumerate(patches):
        groups.setdefault(patch.names, []).append(number)
    for names, numbers in groups.items():
        shared = [number for number in numbers if sweep.shares_work(patches[number])]
        yield from _decoded(sweep, [patches[number] for number in shared], shared, at)
        others = [number for number in numbers if number not in set(shared)]
        size = sweep.rows if names[0].startswith("encoder.") else decoder_rows
        for batch in (others[start : start + size] for start in range(0, len(others), size)):
            yield batch, _resumed(sweep, [patches[number] for number in batch], base)


def _decoded(
    sweep: EncoderSweep, patches: Sequence[Patch], numbers: Sequence[int], at: Sequence[int]
) -> Iterator[tuple[list[int], Float[Tensor, "row token d_model"]]]:
    """Decode several batches of encoder outputs at once: the decoder's weights are read once for all of them."""
    resid = sweep.base["decoder.blocks.0.hook_resid_pre"]
    waiting: list[Tensor] = []
    batch: list[int] = []
    left = len(patches)
    for of_rows, encoded in sweep.outputs(patches):
        waiting.append(encoded)
        batch += [numbers[number] for number in of_rows]
        left -= len(of_rows)
        if len(batch) >= _ENCODED_ROWS or not left:
            yield batch, decode_over(sweep.model, resid, torch.cat(waiting), at)
            waiting, batch = [], []


def _resumed(sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs) -> Float[Tensor, "row token d_model"]:
    """Return the last hidden state with patches of any point."""
    replaced = {
        name: patched_rows(patches, sweep.base[name], sweep.source[name], sweep.model.hook_dict[name])
        for name in patches[0].names
    }
    return resume_from(sweep.model, sweep.base, replaced, base.tokens, base.mel, sweep.base["encoder.hook_out"])
