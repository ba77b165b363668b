"""Permanent hooks stay until they are asked to leave."""

from __future__ import annotations

import copy

import pytest
import torch

from hooked_whisper.errors import ArgumentError
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins

POINT = "encoder.blocks.0.hook_attn_out"


@pytest.fixture
def core(one_block: Twins) -> WhisperCore:
    return copy.deepcopy(one_block.core)


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_reset_hooks_leaves_a_permanent_hook(one_block: Twins, core: WhisperCore) -> None:
    mel, tokens = one_block.mel(), one_block.tokens(3)
    plain = core(mel, tokens)
    (handle,) = core.add_perma_hook(POINT, double)
    edited = core(mel, tokens)
    assert not torch.equal(plain, edited)
    core.add_hook(POINT, double)
    core.reset_hooks()
    assert core.list_hooks() == {POINT: 1} and torch.equal(core(mel, tokens), edited)
    with core.hooks(fwd_hooks=[(POINT, double)]):
        assert core.list_hooks() == {POINT: 2}
    core.run_with_cache(mel, tokens, fwd_hooks=[(POINT, double)])
    assert core.list_hooks() == {POINT: 1}
    handle.remove()
    assert torch.equal(core(mel, tokens), plain)


def test_reset_hooks_including_permanent(one_block: Twins, core: WhisperCore) -> None:
    core.add_perma_hook("encoder.*.hook_resid_post", double)
    core.add_perma_hook(POINT, double, dir="bwd")
    core.encoder.blocks[0].hook_mlp_out.add_perma_hook(double)
    core.reset_hooks(direction="bwd", including_permanent=True)
    assert len(core.list_hooks()) == 2
    core.reset_hooks(including_permanent=True)
    assert core.list_hooks() == {}


@pytest.mark.usefixtures("unchecked")
def test_contexts_and_masks_of_reset_hooks(core: WhisperCore) -> None:
    core.add_attn_masks({"encoder": torch.ones(1, 1, 1, 20, dtype=torch.bool)})
    core.hook_dict[POINT].ctx["note"] = 1
    core.reset_hooks(clear_contexts=False, direction="bwd")
    assert core.hook_dict[POINT].ctx == {"note": 1} and any(a.masks for a in core.attention_modules().values())
    core.reset_hooks()
    assert core.hook_dict[POINT].ctx == {} and not any(a.masks for a in core.attention_modules().values())
    with pytest.raises(ArgumentError, match="direction must be"):
        core.reset_hooks(direction="forward")  # type: ignore[arg-type]
