"""Mask builders: what they mask, masks as hooks, wide windows, live decoding, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import MaskError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.masks import cut_padding, join_masks, knock_out, mask_hooks, window_masks
from hooked_whisper.patching.positions import filled_positions, read_positions
from hooked_whisper.protocols import HeadRef, Interval
from tests.patching.conftest import N_POSITIONS as N

TOKENS = torch.tensor([[3, 5, 7, 11, 13], [2, 4, 6, 8, 10]])
MEL = torch.randn(2, 80, 2 * N, generator=torch.Generator().manual_seed(0))


def patterns(model: HookedWhisper, masks: dict, name: str) -> Tensor:
    _, cache = model.run_with_cache(MEL, TOKENS, names_filter=f"{name}.hook_pattern", attn_masks=masks)
    return cache[f"{name}.hook_pattern"]


@torch.no_grad()
def logits(model: HookedWhisper, **how) -> Tensor:
    return model.run_with_hooks(MEL, TOKENS, **how)


def some_masks(model: HookedWhisper, kind: str, a: int, b: int, head: int) -> dict:
    low, high = sorted((a, b))
    return {
        "window": lambda: window_masks(model, a),
        "per head": lambda: window_masks(model, {(0, head): a, (1, 1 - head): b}, n_speech=[b, 24]),
        "decoder window": lambda: window_masks(model, a, stack="decoder", heads=[head]),
        "pairs": lambda: knock_out(model, (low, high + 1), [a, (b, 24)], blocks=[1], heads=[head]),
        "cross": lambda: knock_out(model, [a % 5], (low, high + 1), stack="cross"),
        "self": lambda: knock_out(model, [a % 5], [b % 5], stack="decoder", heads=[head]),
        "padding": lambda: cut_padding(model, [a, b], rows="speech"),
        "cross padding": lambda: cut_padding(model, [a, b], stack="cross", heads=[head]),
        "joined": lambda: join_masks(model, window_masks(model, a), cut_padding(model, [b, 24])),
        "tensor": lambda: {("encoder", head): torch.rand(24, 24) < 0.5},
    }[kind]()


KINDS = ("window", "per head", "decoder window", "pairs", "cross", "self", "padding", "cross padding", "joined",
         "tensor")  # fmt: skip


@given(st.sampled_from(KINDS), st.integers(0, N - 1), st.integers(0, N - 1), st.integers(0, 1))
def test_masks_and_the_same_masks_as_hooks_agree(model, kind: str, a: int, b: int, head: int) -> None:
    masks = some_masks(model, kind, a, b, head)
    by_mask, by_hook = logits(model, attn_masks=masks), logits(model, fwd_hooks=mask_hooks(model, masks))
    assert torch.allclose(by_mask, by_hook, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_output(model, kind: str) -> None:
    assert (logits(model, attn_masks=some_masks(model, kind, 3, 17, 1)) - logits(model)).abs().max() > 1e-4


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_window_as_wide_as_the_input_masks_nothing(model, stack: str) -> None:
    wide = window_masks(model, N, stack=stack)
    assert torch.allclose(logits(model, attn_masks=wide), logits(model), atol=1e-5)
    everyone = cut_padding(model, [N, N])
    assert torch.allclose(logits(model, attn_masks=everyone), logits(model), atol=1e-5)


def test_a_window_per_head_leaves_the_other_heads_alone(model) -> None:
    masks = window_masks(model, {(0, 1): 2}, n_speech=[10, 24])
    assert list(masks) == ["encoder.blocks.0.attn"]
    got, plain = (patterns(model, m, "encoder.blocks.0.attn") for m in (masks, {}))
    assert torch.allclose(got[:, 0], plain[:, 0], atol=1e-6)
    assert (got[0, 1, 5] > 0).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    assert (got[0, 1, 10:] > 0).all()  # rows after the clip see everything
    assert (got[1, 1, 20] > 0).sum() == 5


def test_exactly_the_knocked_out_pairs_have_no_attention(model) -> None:
    got = patterns(model, knock_out(model, [2, (5, 7)], slice(10, 14), heads=[0], blocks=[1]), "encoder.blocks.1.attn")
    cut = torch.zeros(2, 2, N, N, dtype=torch.bool)
    for query in (2, 5, 6):
        cut[:, 0, query, 10:14] = True
    assert torch.equal(got == 0, cut)


def test_seconds_words_and_positions_are_the_same_span(model) -> None:
    word = Interval(0.1, 0.2, "word")
    masks = [knock_out(model, None, where, stack="cross", unit=unit) for where, unit in
             (((0.1, 0.2), "seconds"), (word, "positions"), ((5, 11), "positions"))]  # fmt: skip
    assert masks[0] == masks[1] == masks[2]


def test_padding_is_cut_in_each_clip(model) -> None:
    got = patterns(model, cut_padding(model, [6, 20], stack="cross"), "decoder.blocks.1.cross_attn")
    assert (got[0, ..., 6:] == 0).all() and (got[1, ..., :20] > 0).all() and (got[1, ..., 20:] == 0).all()


def test_masks_hold_in_live_decoding(model) -> None:
    masks = knock_out(model, (2, 9), [0], stack="decoder") | knock_out(model, [3, 4], (0, 12), stack="cross")
    with torch.no_grad(), model.hooks(attn_masks=masks):
        encoder_out = model.embed_audio(MEL)
        live = model.generate(TOKENS[:, :2], encoder_out, max_new_tokens=6)
        forced = model.logits(live, encoder_out).argmax(-1)
    assert torch.equal(live[:, 2:], forced[:, 1:-1])
    with model.hooks(fwd_hooks=mask_hooks(model, masks)):
        assert torch.equal(model.generate(TOKENS[:, :2], encoder_out, max_new_tokens=6), live)


@given(st.integers(0, N), st.integers(0, N))
def test_spans_are_half_open(a: int, b: int) -> None:
    low, high = sorted((a, b))
    inside = read_positions((low, high), n=N).mask(torch.arange(N)).nonzero().flatten().tolist()
    assert inside == list(range(low, high))
    both = read_positions([low, high], n=N + 1).mask(torch.arange(N + 1)).nonzero().flatten().tolist()
    assert both == sorted({low, high})


def test_filled_positions_end_where_the_mel_stops_changing() -> None:
    mel = torch.full((3, 4, 40), -1.5)
    mel[0, 1, :21] = 0.0
    mel[1] = torch.randn(4, 40)
    assert filled_positions(mel) == (11, 20, 0)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: window_masks(m, 3, blocks=[2]), "no block 2"),
        (lambda m: window_masks(m, {(0, 5): 3}), "no head 5"),
        (lambda m: window_masks(m, -1), "at least 0"),
        (lambda m: window_masks(m, 3, stack="cross"), "knock_out"),
        (lambda m: window_masks(m, {(0, 0): 1}, heads=[0]), "leave out"),
        (lambda m: knock_out(m, (3, N + 1)), "24"),
        (lambda m: knock_out(m, [1], (0.0, 0.1), stack="decoder", unit="seconds"), "tokens"),
        (lambda m: knock_out(m, (5, 3)), "start <= stop"),
        (lambda m: knock_out(m, (0.5, 3)), "seconds"),
        (lambda m: cut_padding(m, [N + 1]), "0 to 24"),
        (lambda m: cut_padding(m, [3], stack="decoder"), "no padding"),
        (lambda m: cut_padding(m, [3], stack="cross", rows="speech"), "rows"),
        (lambda m: mask_hooks(m, {"encodr": torch.ones(1, 1, dtype=torch.bool)}), "encoder"),
    ],
)
def test_errors_explain_the_remedy(model, unchecked, build, words: str) -> None:
    with pytest.raises(MaskError, match=words):
        build(model)


def test_heads_can_be_named(model) -> None:
    by_pair = window_masks(model, {(0, 1): 2, (1, 0): 3})
    assert window_masks(model, {"encoder 0.1": 2, HeadRef("encoder", 1, 0): 3}) == by_pair
    by_lists = knock_out(model, [2], [3], stack="cross", blocks=[1], heads=[0])
    assert knock_out(model, [2], [3], heads=["cross 1.0"]) == knock_out(model, [2], [3], heads=["X1.0"]) == by_lists
    rule = by_pair["encoder.blocks.0.attn", (1,)]
    for target in ("encoder 0.1", HeadRef("encoder", 0, 1), "encoder.blocks.0.head.1"):
        named = logits(model, attn_masks={target: rule})
        assert torch.equal(named, logits(model, attn_masks={("encoder.blocks.0.attn", 1): rule}))
