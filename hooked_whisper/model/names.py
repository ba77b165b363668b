"""Facts about hook names that need no loaded model, read from the hook points of a small model without weights."""

from __future__ import annotations

import re
from functools import cache

import torch

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.hooks.hook_names import SAE_PART, resolve_alias
from hooked_whisper.model.whisper import WhisperCore

_BLOCK = re.compile(r"(?<=\.blocks\.)\d+")


def canonical_name(name: str) -> str:
    """Return the hook name that a published alias stands for; other names are returned unchanged.

    The aliases are those declared at the hook points, see :class:`~hooked_whisper.hooks.HookPoint`.
    """
    block = _BLOCK.search(name)
    resolved = resolve_alias(_BLOCK.sub("0", name, count=1), _one_block_model().hook_aliases)
    return resolved if block is None else _BLOCK.sub(block.group(), resolved, count=1)


def is_per_clip(name: str) -> bool:
    """Return whether the point has one row per clip, at encoder positions: encoder points, and keys and values of
    cross-attention."""
    site = _BLOCK.sub("0", canonical_name(name).partition(SAE_PART)[0], count=1)
    point = _one_block_model().hook_dict.get(site)
    return point is not None and point.per_clip


def one_block_names() -> list[str]:
    """Return the hook names of a model with one block in each stack."""
    return list(_one_block_model().hook_dict)


@cache
def _one_block_model() -> WhisperCore:
    encoder = EncoderConfig(d_model=4, n_heads=1, n_layers=1, d_mlp=4)
    decoder = DecoderConfig(d_model=4, n_heads=1, n_layers=1, d_mlp=4)
    with torch.device("meta"):
        return WhisperCore(WhisperConfig(encoder, decoder))
