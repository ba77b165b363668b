"""Activation patching: put parts of one run's activations into another run, many patches per batch.

A patch does not affect earlier activations. Both runs are computed once, and every patched row resumes at its patch
(:mod:`hooked_whisper.patching.resume`): a patch in the decoder never runs the encoder, and a patch in encoder block L
runs only what follows it (:mod:`hooked_whisper.patching.encoder_sweep`). The rows of a batch hold different patches.

Sources: Heimersheim & Nanda 2024 (arXiv 2404.15255), Zhang & Nanda 2023 (arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked_whisper.activations.options import WindowSize
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.patching.encoder_sweep import EncoderSweep, collected
from hooked_whisper.patching.frozen_positions import FrozenPositions, free_positions
from hooked_whisper.patching.grid import Patch
from hooked_whisper.patching.metrics import Metric, read_metric
from hooked_whisper.patching.positions import filled_positions
from hooked_whisper.patching.replacements import patched_rows
from hooked_whisper.patching.resume import locate, required_activations, resume_from
from hooked_whisper.patching.runs import PatchedMetric, RunInputs, cache_run
from hooked_whisper.patching.short_decoder import decode_over
from hooked_whisper.patching.watching import is_watched

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ENCODER_ROWS, ENCODER_ROWS_ON_CPU, DECODER_ROWS = 16, 2, 64  # on a CPU more encoder rows overflow the caches
_ENCODED_ROWS = 8  # encoder outputs per decoder pass
BEYOND = 25  # positions of padding that a patch can change with window="sound"


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
    window: WindowSize = "full",
    beyond: int = BEYOND,
    check: int = 2,
    progress: bool = False,
) -> PatchedMetric:
    """Return the metric of the base run with each patch in turn, its activations taken from the source run.

    Args:
        encoder_rows, decoder_rows: patches per batch (default in the encoder: 2 on a CPU, else 16); memory grows with
            them.
        window: ``"full"`` is exact. With ``"sound"``, patches inside the encoder change only positions of the sound,
            and padding keeps the activations of the base run; the result has a ``deviation``. Patches of padding, of
            all positions, and of attention patterns run in full.
        beyond: positions of padding after the sound that ``window="sound"`` lets change, at least.
        check: number of patches that ``window="sound"`` also runs in full for the deviation: those of the earliest
            block with the largest effects.

    Raises:
        PatchError: the runs have different shapes, a point cannot be patched, an index is out of range, or
            ``window="sound"`` does not apply.
    """
    check_option("window", window, get_args(WindowSize), PatchError)
    if encoder_rows is None:
        encoder_rows = ENCODER_ROWS_ON_CPU if model.device.type == "cpu" else ENCODER_ROWS
    names = list(dict.fromkeys(name for patch in patches for name in patch.names))
    for point in map(model.hook_dict.__getitem__, names):
        if point.axes[0] != "batch":
            raise PatchError(f"{point.name} has axes {list(point.axes)}: without a batch axis it cannot be patched")
    source_cache = cache_run(model, source, names)
    required = [required_name for name in names for required_name in required_activations(model, name)]
    if window == "sound":
        required += _check_sound(model, names, base, source)
    base_cache = cache_run(model, base, [*names, *required])
    sweep = EncoderSweep(model, base_cache, source_cache, encoder_rows)
    ends = [float(read_metric(model, cache["unembed.hook_in"], metric)) for cache in (base_cache, source_cache)]
    deviation = None
    if window == "full":
        values = _values(sweep, patches, base, metric, decoder_rows, progress)
    else:
        values = torch.empty(len(patches), dtype=torch.float64)
        restricted, inside = _restricted(sweep, patches, base, source, beyond)
        outside = [number for number in range(len(patches)) if number not in set(inside)]
        for part, numbers in ((restricted, inside), (sweep, outside)):
            values[numbers] = _values(part, [patches[k] for k in numbers], base, metric, decoder_rows, progress)
        # what is left out adds up over the blocks after the patch, and grows with the effect
        first = min((locate(model, patches[number].name)[1] for number in inside), default=0)
        earliest = [number for number in inside if locate(model, patches[number].name)[1] == first]
        largest = sorted(earliest, key=lambda number: -abs(float(values[number]) - ends[0]))[:check]
        in_full = _values(sweep, [patches[k] for k in largest], base, metric, decoder_rows, False)
        deviation = float((values[largest] - in_full).abs().max()) if largest else 0.0
    return PatchedMetric(values, ends[0], ends[1], deviation)


def _check_sound(model: HookedWhisper, names: Sequence[str], base: RunInputs, source: RunInputs) -> list[str]:
    """Return the activations of the base run that ``window="sound"`` needs.

    Raises:
        PatchError: a point is not inside the encoder, a run has no mel, or something acts inside the encoder.
    """
    blocks = range(len(model.encoder.blocks))
    outside = [name for name in names if not name.startswith("encoder.blocks.")]
    if outside or base.mel is None or source.mel is None:
        where = f"{outside[0]} is outside" if outside else "the runs start from encoder outputs, not mels"
        raise PatchError(f"window='sound' is for points inside the encoder's blocks, but {where}: use window='full'")
    if any(is_watched(block) for block in model.encoder.blocks):
        raise PatchError(
            "window='sound' does not compute all positions, but a hook, mask or SAE acts in the encoder: remove it, or "
            "use window='full'"
        )
    return [f"encoder.blocks.{n}.hook_resid_pre" for n in blocks] + [f"encoder.blocks.{blocks[-1]}.hook_resid_post"]


def _restricted(
    sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs, source: RunInputs, beyond: int
) -> tuple[EncoderSweep, list[int]]:
    """Return the sweep in which only positions of the sound change, and the numbers of the patches inside of it."""
    assert base.mel is not None and source.mel is not None  # checked before the runs
    n_sound = max(filled_positions(torch.cat([base.mel, source.mel])))
    free = free_positions(max(1, n_sound + beyond), sweep.base["encoder.hook_out"].shape[1]).to(sweep.model.device)
    inside = [
        number
        for number, patch in enumerate(patches)
        if sweep.shares_work(patch) and not bool(sweep.changed(patch)[len(free) :].any())
    ]
    return replace(sweep, frozen=FrozenPositions.of(sweep.model.encoder, sweep.base, free)), inside


def _values(
    sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs, metric: Metric, decoder_rows: int, progress: bool
) -> Float[Tensor, "patch"]:
    values = torch.empty(len(patches), dtype=torch.float64)
    with tqdm(total=len(patches), desc="patching", disable=not progress, leave=False) as bar:
        for numbers, hidden in _hidden(sweep, patches, base, decoder_rows, metric.at):
            values[numbers] = read_metric(sweep.model, hidden, metric).double().cpu()
            bar.update(len(numbers))
    return values


def _hidden(
    sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs, decoder_rows: int, read_tokens: Sequence[int]
) -> Iterator[tuple[list[int], Float[Tensor, "row token d_model"]]]:
    """Yield the decoder's last hidden state with the numbers of its patches, which are of the same points."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, patch in enumerate(patches):
        groups.setdefault(patch.names, []).append(number)
    for names, numbers in groups.items():
        shared = [number for number in numbers if sweep.shares_work(patches[number])]
        yield from _decoded(sweep, [patches[number] for number in shared], shared, read_tokens)
        others = [number for number in numbers if number not in set(shared)]
        size = sweep.rows if names[0].startswith("encoder.") else decoder_rows
        for batch in (others[start : start + size] for start in range(0, len(others), size)):
            yield batch, _resumed(sweep, [patches[number] for number in batch], base)


def _decoded(
    sweep: EncoderSweep, patches: Sequence[Patch], numbers: Sequence[int], read_tokens: Sequence[int]
) -> Iterator[tuple[list[int], Float[Tensor, "row token d_model"]]]:
    """Decode several batches of encoder outputs at once: the decoder's weights are read once for all of them."""
    resid = sweep.base["decoder.blocks.0.hook_resid_pre"]
    for batch, encoded in collected(sweep.outputs(patches), _ENCODED_ROWS):
        yield [numbers[number] for number in batch], decode_over(sweep.model, resid, torch.cat(encoded), read_tokens)


def _resumed(sweep: EncoderSweep, patches: Sequence[Patch], base: RunInputs) -> Float[Tensor, "row token d_model"]:
    """Return the last hidden state with patches of any point."""
    replaced = {
        name: patched_rows(patches, sweep.base[name], sweep.source[name], sweep.model.hook_dict[name])
        for name in patches[0].names
    }
    return resume_from(sweep.model, sweep.base, replaced, base.tokens, base.mel, sweep.base["encoder.hook_out"])
