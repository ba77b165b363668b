"""Functions of version 0.1 whose arguments differ from their successors. Removed in the next version."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.patching import CleanCorruptPair, HeadRef, PatchResult, Positions, patch
from hooked_whisper.patching.grid import is_hook_name, runs_over_positions
from hooked_whisper.protocols import Stack

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

_PARTIALS: dict[str, dict[str, Any]] = {
    "patch_cross_attn_out": {"component": "cross_attn_out", "stack": "decoder"},
    "patch_cross_heads": {"component": "cross_z", "stack": "decoder", "per_head": True},
    "patch_cross_keys": {"component": "cross_k", "stack": "decoder"},
    "patch_cross_keys_values": {"component": "cross_kv", "stack": "decoder"},
    "patch_cross_values": {"component": "cross_v", "stack": "decoder"},
    "patch_decoder_attn_out": {"component": "attn_out", "stack": "decoder"},
    "patch_decoder_heads": {"component": "z", "stack": "decoder", "per_head": True},
    "patch_decoder_mlp_out": {"component": "mlp_out", "stack": "decoder"},
    "patch_decoder_resid": {"component": "resid_pre", "stack": "decoder"},
    "patch_decoder_resid_mid": {"component": "resid_mid", "stack": "decoder"},
    "patch_decoder_resid_mid_cross": {"component": "resid_mid_cross", "stack": "decoder"},
    "patch_decoder_resid_post": {"component": "resid_post", "stack": "decoder"},
    "patch_encoder_attn_out": {"component": "attn_out", "stack": "encoder"},
    "patch_encoder_heads": {"component": "z", "stack": "encoder", "per_head": True},
    "patch_encoder_mlp_out": {"component": "mlp_out", "stack": "encoder"},
    "patch_encoder_neurons": {"component": "mlp_post", "stack": "encoder", "by_span": False},
    "patch_encoder_out": {"component": "encoder.hook_out", "stack": "encoder"},
    "patch_encoder_resid": {"component": "resid_pre", "stack": "encoder"},
}


def _patch_pairs(
    model: HookedWhisper,
    pairs: Sequence[CleanCorruptPair],
    component: str,
    stack: Stack,
    *,
    by_span: bool = True,
    per_head: bool = False,
    **options: Any,
) -> PatchResult:
    """:func:`patch` with the options of 0.1: ``by_span`` and ``per_head`` in place of ``over``."""
    pair_spans = pairs[0].spans if pairs else ()
    spans = pair_spans if runs_over_positions(component, stack) else options.get("token_spans")
    over = {
        "block": not is_hook_name(component),
        "span": by_span and bool(spans),
        "head": per_head,
        "unit": options.get("units") is not None,
        "feature": options.get("subspaces") is not None,
    }
    return patch(model, pairs, component, stack, over=[axis for axis in over if over[axis]], **options)  # type: ignore[misc]


def _head(stack: Stack, block: int, head: int, cross: bool = False) -> HeadRef:
    return HeadRef("cross" if cross else stack, block, head)


def _span(label: str, start: int, stop: int) -> Positions:
    return Positions(((start, stop),), label)


_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "Head": (_head, "HeadRef(stack, block, head) with stack='cross' for cross-attention"),
    "Span": (_span, "Positions(((start, stop),), label)"),
    "patch_pairs": (_patch_pairs, "patch, with over=(...) in place of by_span and per_head"),
    "attribute_pairs": (partial(_patch_pairs, method="attribution"), "patch(..., method='attribution')"),
    **{
        name: (partial(_patch_pairs, **options), f"patch(model, pairs, {options['component']!r}, {options['stack']!r})")
        for name, options in _PARTIALS.items()
    },
}


def old_function(package: str, name: str) -> Any:
    """Return a function of 0.1 by name, and warn.

    Raises:
        AttributeError: 0.1 had no such name.
    """
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    function, successor = _FUNCTIONS[name]
    warnings.warn(f"{package}.{name} is now hooked_whisper.patching.{successor}", RenamedWarning, stacklevel=3)
    return function
