"""Whether anything acts inside a block, so that shortcuts through it would leave it out."""

from __future__ import annotations

from torch import nn

from hooked_whisper.model.block import Block
from hooked_whisper.model.kernels import watched


def is_watched(block: nn.Module) -> bool:
    """Return whether a hook, a mask or an attached SAE acts in a block of either stack."""
    assert isinstance(block, Block)
    attentions = [block.attn, *([block.cross_attn] if block.cross else [])]
    return bool(block.entry_listeners) or any(attn.masks for attn in attentions) or watched(*block.modules())
