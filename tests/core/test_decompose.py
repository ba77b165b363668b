"""The residual stream as a sum of parts, the parts through the final norm and onto the logits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from einops import einsum

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.hooks import ActivationCache
from hooked_whisper.model import WhisperCore
from tests.core.parity import relative_l2
from tests.core.twins import Twins

STACKS = {"encoder": 2, "decoder": 3}
LAYERS = [(stack, layer) for stack, n in STACKS.items() for layer in (*range(n + 1), None, -1)]
SUM = 1e-6


def entering(cache: ActivationCache, stack: str, layer: int | None) -> torch.Tensor:
    """The residual that enters ``layer``, or leaves the last block."""
    n = STACKS[stack]
    at_end = layer in (None, n, -1)
    return cache[stack, "resid_post", n - 1] if at_end else cache[stack, "resid_pre", layer]


@pytest.mark.parametrize(("stack", "layer"), LAYERS)
def test_parts_sum_to_the_residual(cache: ActivationCache, stack: str, layer: int | None) -> None:
    parts, labels = cache.decompose_resid(stack, layer, return_labels=True)
    blocks = STACKS[stack] if layer in (None, -1) else layer
    assert len(parts) == len(labels) == 2 + blocks * (2 if stack == "encoder" else 3)
    assert labels[:2] == ["embed", "pos_embed"]
    assert relative_l2(parts.sum(0), entering(cache, stack, layer)) < SUM


def test_each_part_is_the_activation_it_is_labelled_with(cache: ActivationCache) -> None:
    parts, labels = cache.decompose_resid("decoder", return_labels=True)
    assert labels[2:5] == ["0_attn_out", "0_cross_attn_out", "0_mlp_out"]
    assert torch.equal(parts[labels.index("2_cross_attn_out")], cache["decoder", "cross_attn_out", 2])
    for mode, what in (("attn", "attn_out"), ("cross", "cross_attn_out"), ("mlp", "mlp_out")):
        parts, labels = cache.decompose_resid("decoder", mode=mode, return_labels=True)
        assert labels == [f"{i}_{what}" for i in range(3)]
        assert torch.equal(parts, torch.stack([cache["decoder", what, i] for i in range(3)]))


@pytest.mark.parametrize("stack", STACKS)
def test_accumulated_residual(cache: ActivationCache, stack: str) -> None:
    n = STACKS[stack]
    resid, labels = cache.accumulated_resid(stack, return_labels=True)
    assert labels == [*(f"{i}_pre" for i in range(n)), "final_post"]
    assert torch.equal(resid, torch.stack([entering(cache, stack, i) for i in range(n + 1)]))
    assert torch.equal(cache.accumulated_resid(stack, 1), resid[:2])
    # with the steps in between, neighbors differ by what one part wrote
    resid, labels = cache.accumulated_resid(stack, incl_mid=True, return_labels=True)
    parts, names = cache.decompose_resid(stack, return_labels=True)
    assert labels[:2] == ["0_pre", "0_mid"] and len(labels) == n * (2 if stack == "encoder" else 3) + 1
    for (before, after), part, name in zip(pairwise(resid), parts[2:], names[2:], strict=True):
        assert relative_l2(before + part, after) < SUM, name


@pytest.mark.parametrize(("stack", "cross"), [("encoder", False), ("decoder", False), ("decoder", True)])
def test_heads_and_bias_sum_to_the_attention_output(
    core: WhisperCore, cache: ActivationCache, stack: str, cross: bool
) -> None:
    results, labels = cache.stack_head_results(stack, cross=cross, return_labels=True)
    n, letter = STACKS[stack], "X" if cross else stack[0].upper()
    assert labels == [f"{letter}{block}.{head}" for block in range(n) for head in range(3)]
    weights = core.decoder.cross if cross else getattr(core, stack)
    by_block = results.unflatten(0, (n, 3))
    for block in range(n):
        result = cache[stack, "cross_result" if cross else "result", block]
        assert relative_l2(by_block[block], result.permute(2, 0, 1, 3)) < SUM
        out = cache[stack, "cross_attn_out" if cross else "attn_out", block]
        assert relative_l2(by_block[block].sum(0) + weights.b_O[block], out) < SUM
    assert torch.equal(cache.stack_head_results(stack, 1, cross=cross, return_labels=True)[0], results[:3])


@pytest.mark.parametrize("stack", STACKS)
def test_normed_parts_sum_to_the_normed_output(core: WhisperCore, cache: ActivationCache, stack: str) -> None:
    norm, out = (
        (core.encoder.ln_post, "encoder.hook_out") if stack == "encoder" else (core.decoder.ln_final, "unembed.hook_in")
    )
    parts, _ = cache.decompose_resid(stack, return_labels=True)
    assert relative_l2(cache.apply_ln_to_stack(parts, stack).sum(0) + norm.bias, cache[out]) < SUM
    last = cache.accumulated_resid(stack, apply_ln=True)[-1]
    assert relative_l2(last + norm.bias, cache[out]) < SUM


def test_logit_attributions_sum_to_the_logit(odd: Twins, core: WhisperCore, cache: ActivationCache) -> None:
    parts, _ = cache.decompose_resid("decoder", return_labels=True)
    heads, _ = cache.stack_head_results("decoder", return_labels=True)
    logits = cache["unembed.hook_out"]
    right, wrong = odd.tokens(5, 2, seed=7), odd.tokens(5, 2, seed=8)
    constant = core.decoder.ln_final.bias @ core.W_U

    def logit_of(tokens: torch.Tensor) -> torch.Tensor:
        return logits.gather(-1, tokens[..., None])[..., 0] - constant[tokens]

    attrs = cache.logit_attrs(parts, right)
    assert attrs.shape == (len(parts), 2, 5)
    assert relative_l2(attrs.sum(0), logit_of(right)) < SUM
    assert relative_l2(cache.logit_attrs(parts, right, wrong).sum(0), logit_of(right) - logit_of(wrong)) < SUM
    assert relative_l2(cache.logit_attrs(parts, 17).sum(0), logits[..., 17] - constant[17]) < SUM
    # one answer for each row, at the last token only
    last, _ = cache.decompose_resid("decoder", pos_slice=-1, return_labels=True)
    attrs = cache.logit_attrs(last, right[:, -1:], pos_slice=-1)
    assert attrs.shape == (len(parts), 2, 1) and relative_l2(attrs.sum(0), logit_of(right)[:, -1:]) < SUM
    # a head's share by hand
    normed = cache.apply_ln_to_stack(heads, "decoder")
    assert torch.allclose(
        cache.logit_attrs(heads, right), einsum(normed, core.W_U.mT[right], "c b t d, b t d -> c b t"), atol=1e-5
    )
    assert torch.allclose(cache.logit_attrs(normed, right, apply_ln=False), cache.logit_attrs(heads, right), atol=1e-6)


@pytest.mark.parametrize("pos", [0, -1, 2, slice(1, 4)])
def test_cutting_before_and_after_reading_agree(cache: ActivationCache, pos: int | slice) -> None:
    selected = slice(pos, pos + 1 or None) if isinstance(pos, int) else pos
    for stack in STACKS:
        whole, _ = cache.decompose_resid(stack, return_labels=True)
        cut, _ = cache.decompose_resid(stack, pos_slice=pos, return_labels=True)
        assert torch.equal(cut, whole[..., selected, :])
        normed = cache.apply_ln_to_stack(whole, stack)[..., selected, :]
        assert torch.allclose(cache.apply_ln_to_stack(cut, stack, pos_slice=pos), normed, atol=1e-6)
        assert torch.equal(
            cache.accumulated_resid(stack, pos_slice=pos), cache.accumulated_resid(stack)[..., selected, :]
        )
        heads = cache.stack_head_results(stack, return_labels=True)[0][..., selected, :]
        assert torch.allclose(cache.stack_head_results(stack, pos_slice=pos, return_labels=True)[0], heads, atol=1e-5)


def test_sliced_cache_decomposes(odd: Twins) -> None:
    cut = {"pos_slice": slice(5, 9), "token_slice": -1}
    _, cache = odd.core.run_with_cache(odd.mel(), odd.tokens(5), **cut)
    for stack, width in (("encoder", 4), ("decoder", 1)):
        parts, _ = cache.decompose_resid(stack, return_labels=True)
        assert parts.shape[2] == width
        assert relative_l2(parts.sum(0), entering(cache, stack, None)) < SUM


def test_undecomposable_points_are_refused(odd: Twins, cache: ActivationCache, unchecked: None) -> None:
    with pytest.raises(ValueError, match="stack must be"):
        cache.decompose_resid("cross", return_labels=True)
    with pytest.raises(ValueError, match="mode must be"):
        cache.decompose_resid("decoder", mode="heads", return_labels=True)
    with pytest.raises(ValueError, match="no cross-attention"):
        cache.decompose_resid("encoder", mode="cross", return_labels=True)
    with pytest.raises(ValueError, match="no cross-attention"):
        cache.stack_head_results("encoder", cross=True, return_labels=True)
    with pytest.raises(ValueError, match="no head comes before block 0"):
        cache.stack_head_results("encoder", 0, return_labels=True)
    with pytest.raises(ValueError, match="nothing was added before block 0"):
        cache.decompose_resid("decoder", 0, mode="mlp", return_labels=True)
    with pytest.raises(HookedWhisperError, match="decoder has blocks 0 to 2"):
        cache.accumulated_resid("decoder", 4)
    _, few = odd.core.run_with_cache(odd.mel(), names_filter="encoder.hook_embed")
    with pytest.raises(HookedWhisperError, match="hook_pos_embed was not cached"):
        few.decompose_resid("encoder", return_labels=True)


def test_parts_and_scale_are_of_the_same_places(one_block: Twins) -> None:
    model = one_block.core
    mel = torch.randn(1, model.cfg.encoder.n_mels, model.cfg.encoder.n_frames)
    _, cache = model.run_with_cache(mel, torch.tensor([[1, 2, 3, 4]]))
    parts, _ = cache.decompose_resid("decoder", return_labels=True)
    with pytest.raises(HookedWhisperError, match="4 positions and the norm's scale 1"):
        cache.logit_attrs(parts, 5, pos_slice=-1)
    cut, _ = cache.decompose_resid("decoder", pos_slice=-1, return_labels=True)
    assert torch.allclose(
        cache.logit_attrs(cut, 5, pos_slice=-1)[..., 0], cache.logit_attrs(parts, 5)[..., -1], atol=1e-5
    )
