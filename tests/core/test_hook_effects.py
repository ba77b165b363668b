"""What hooks do while a model decodes with a cache, edits in place, or runs backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError, HookShapeError
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.twins import Twins

POINT = "decoder.blocks.0.hook_mlp_out"


@pytest.fixture
def core(one_block: Twins) -> WhisperCore:
    return one_block.core


@torch.no_grad()
def test_offset_is_the_index_of_the_first_token(one_block: Twins, core: WhisperCore) -> None:
    seen: dict[str, list[int]] = {}
    encoder_out = core.embed_audio(one_block.mel())
    with core.hooks([("*", lambda x, hook: seen.setdefault(hook.name, []).append(hook.offset))]):
        kv_cache = KVCache()
        for piece in one_block.tokens(6).split([3, 1, 2], dim=1):
            core.decoder(piece, encoder_out, kv_cache)
    once = {n for n in core.hook_names("decoder.*") if n.endswith(("cross_attn.hook_k", "cross_attn.hook_v"))}
    # cross-attention makes its keys and values once per clip
    assert {name for name, offsets in seen.items() if offsets == [0]} == once
    assert all(offsets == [0, 3, 4] for name, offsets in seen.items() if name not in once)


@torch.no_grad()
def test_resuming_after_cached_decoding_begins_at_zero(one_block: Twins, core: WhisperCore) -> None:
    encoder_out, tokens = core.embed_audio(one_block.mel()), one_block.tokens(5)
    _, cache = core.run_with_cache(
        tokens=tokens, encoder_out=encoder_out, names_filter=["decoder.blocks.0.hook_resid_pre", "unembed.hook_in"]
    )
    kv_cache = KVCache()
    for piece in tokens.split(1, dim=1):
        core.decoder(piece, encoder_out, kv_cache)
    resumed = core.decoder.from_resid(cache["decoder", "resid_pre", 0], 0, encoder_out)
    assert torch.allclose(resumed, cache["unembed.hook_in"], atol=1e-5)


def test_in_place_edits_stay_where_they_are(one_block: Twins) -> None:
    """Whatever a hook does to its tensor, what was cached before it is as it was, and so are the inputs."""
    core, mel, tokens = one_block.core, one_block.mel(), one_block.tokens(4)
    _, plain = core.run_with_cache(mel, tokens, names_filter="*")
    names = core.hook_names()
    for i, name in list(enumerate(names))[::2]:
        _, cache = core.run_with_cache(mel, tokens, names_filter="*", fwd_hooks=[(name, lambda x: x.zero_())])
        assert all(torch.equal(cache[earlier], plain[earlier]) for earlier in names[:i]), name
        assert not cache[name].any()
    assert torch.equal(mel, one_block.mel()) and torch.equal(tokens, one_block.tokens(4))


def test_backward_hooks_read_and_replace(one_block: Twins, core: WhisperCore) -> None:
    seen: list[Tensor] = []
    mel, tokens = one_block.mel().requires_grad_(), one_block.tokens(4)
    with core.hooks(bwd_hooks=[(POINT, lambda grad, hook: seen.append((grad, hook.name)))]):
        (plain,) = torch.autograd.grad(core(mel, tokens).sum(), mel)
    assert seen[0][0].shape == (1, 4, 32) and seen[0][1] == POINT
    # cutting every branch into the stream but the embedding: nothing of the audio is left
    branches = ["decoder.blocks.0.hook_cross_attn_out"]
    with core.hooks(bwd_hooks=[(branches, lambda grad: torch.zeros_like(grad))]):
        (cut,) = torch.autograd.grad(core(mel, tokens).sum(), mel)
    assert plain.any() and not cut.any()


def test_a_backward_hook_sees_its_branch_only(one_block: Twins, core: WhisperCore) -> None:
    """At ``hook_mlp_in`` the gradient is the MLP's, although the residual stream holds the same tensor."""
    leaves: list[Tensor] = []

    def add_leaf(x: Tensor) -> Tensor:
        leaves.append(torch.zeros_like(x, requires_grad=True))
        return x + leaves[-1]

    name, seen = "decoder.blocks.0.hook_mlp_in", []
    with core.hooks(bwd_hooks=[(name, seen.append)]):
        torch.autograd.grad(core(one_block.mel(), one_block.tokens(4)).sum(), core.decoder.token_embedding.weight)
    logits = core.run_with_hooks(one_block.mel(), one_block.tokens(4), fwd_hooks=[(name, add_leaf)])
    (wanted,) = torch.autograd.grad(logits.sum(), leaves)
    assert torch.allclose(seen[0], wanted, rtol=1e-4, atol=1e-5)


def test_editing_a_gradient_in_place_leaves_other_branches(one_block: Twins, core: WhisperCore) -> None:
    name, mel = "decoder.blocks.0.hook_mlp_out", one_block.mel().requires_grad_()

    def gradient(*hooks: tuple) -> Tensor:
        with core.hooks(bwd_hooks=hooks):
            return torch.autograd.grad(core(mel, one_block.tokens(4)).sum(), mel)[0]

    assert torch.equal(gradient((name, lambda g: g.zero_())), gradient((name, lambda g: torch.zeros_like(g))))
    assert not torch.equal(gradient((name, lambda g: g.zero_())), gradient())


def test_backward_hook_that_cannot_run_is_an_error(one_block: Twins, core: WhisperCore) -> None:
    with torch.no_grad(), core.hooks(bwd_hooks=[(POINT, print)]), pytest.raises(HookedWhisperError, match="never run"):
        core(one_block.mel(), one_block.tokens(2))
    bad = (POINT, lambda grad: grad[:, :1])
    with core.hooks(bwd_hooks=[bad]), pytest.raises(HookShapeError, match="shape"):
        torch.autograd.grad(core(mel := one_block.mel().requires_grad_(), one_block.tokens(2)).sum(), mel)


def test_a_frozen_scale_leaves_a_linear_norm(odd: Twins) -> None:
    """A hook that detaches the scale takes the norm's gradient for that of a division by a constant."""
    norm = odd.core64.encoder.ln_post
    x = torch.randn(2, 5, 96, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 5, 96, dtype=torch.float64)
    scale = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    handle = norm.hook_scale.add_hook(lambda s: s.detach())
    try:
        out = norm(x)
    finally:
        handle.remove()
    linear = (x - x.mean(-1, keepdim=True)) / scale.detach() * norm.weight + norm.bias
    frozen, wanted, whole = (torch.autograd.grad((y * direction).sum(), x)[0] for y in (out, linear, norm(x)))
    assert torch.allclose(frozen, wanted) and not torch.allclose(frozen, whole)
