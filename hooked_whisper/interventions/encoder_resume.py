"""Run the encoder from the first block that an intervention reaches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint, Hooks
from hooked_whisper.hooks.attach_parts import SAEHookPoint
from hooked_whisper.hooks.caching import Storing, collect_activations
from hooked_whisper.model.masks import resolve_target
from hooked_whisper.patching.resume import locate

Masks = Mapping[Any, Any]
OUTPUT = 1 << 20  # stands for a block if an intervention begins to act at the encoder output


def encode_keeping(
    model: HookedWhisper, mel: Float[Tensor, "clip mel frame"], blocks: Collection[int]
) -> tuple[Float[Tensor, "clip position d_model"], dict[int, Float[Tensor, "clip position d_model"]]]:
    """Return the encoder output and the residual streams that enter ``blocks``."""
    n_layers = model.cfg.encoder.n_layers
    if not all(0 <= block < n_layers for block in blocks):
        raise PatchError(f"resume_blocks={sorted(blocks)}: the encoder has blocks 0 to {n_layers - 1}")
    names = {block: resid_point(model, block).name for block in sorted(set(blocks))}
    encoded, resid = collect_activations(model, list(names.values()), lambda: model.embed_audio(mel), Storing())
    assert encoded is not None, "the pass is not stopped early"
    return encoded, {block: resid[name] for block, name in names.items()}


def resid_point(model: HookedWhisper, block: int) -> HookPoint:
    return model.hook_dict[f"encoder.blocks.{block}.hook_resid_pre"]


def splits_sae(model: HookedWhisper, block: int) -> bool:
    """Whether an attached SAE reads before ``block`` and replaces an activation in it or after it.

    Such an SAE needs a pass that begins earlier.
    """
    spans = {point.span for point in model.hook_dict.values() if isinstance(point, SAEHookPoint)}
    blocks = [
        (locate(model, first)[1], locate(model, last)[1]) for first, last in spans if first.startswith("encoder.")
    ]
    return any(first < block <= last for first, last in blocks)


def first_reached(model: HookedWhisper, fwd_hooks: Hooks, masks: Masks) -> tuple[str | None, int]:
    """Return the encoder point or attention where the intervention begins to act, and its block.

    The name is ``None`` if it does not act in the encoder. Instead of a block: ``INPUT`` of
    :mod:`hooked_whisper.patching.resume` before the blocks, :data:`OUTPUT` at the encoder output.
    """
    names = [name for hooked, _ in fwd_hooks for name in model.hook_names(hooked)]
    heads = {name: attn.n_heads for name, attn in model.attention_modules().items()}
    names += [name for target in masks for name in resolve_target(target, list(heads), heads)]
    starts = {name: _block(model, name) for name in names if name.startswith("encoder.")}
    first = min(starts, key=lambda name: starts[name], default=None)
    return first, OUTPUT if first is None else starts[first]


def _block(model: HookedWhisper, name: str) -> int:
    if name == "encoder.hook_out" and not model.encoder.hook_out.active:
        return OUTPUT
    # hooks of the caller at the output have already been applied to it: then the last block must run again
    return min(locate(model, name)[1], model.cfg.encoder.n_layers - 1)
