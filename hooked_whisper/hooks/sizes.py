"""Sizes of a hook point's tensor, from the configuration and the sizes of a pass."""

from __future__ import annotations

from collections.abc import Mapping

from hooked_whisper.config import WhisperConfig
from hooked_whisper.hooks.hook_point import HookPoint, of_cross_keys


def axis_sizes(point: HookPoint, cfg: WhisperConfig, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of a point's tensor for a pass with these sizes (``batch``, ``position``, ``token``, ...).

    ``clip`` is the number of clips, where one serves many rows of tokens (default: ``batch``).
    """
    stack = cfg.encoder if point.stack == "encoder" else cfg.decoder
    of_clips = point.stack == "encoder" or of_cross_keys(point.site)
    local = {
        "batch": sizes.get("clip", sizes["batch"]) if of_clips else sizes["batch"],
        "head": stack.n_heads,
        "d_head": stack.d_head,
        "d_mlp": stack.d_mlp,
        "query": sizes["position" if point.stack == "encoder" else "token"],
        "key": sizes["position" if point.stack == "encoder" or ".cross_attn." in point.name else "token"],
        **point.sizes,
    }
    return tuple(local.get(axis, sizes.get(axis, 1)) for axis in point.axes)
