"""Laws that hold for any set of points, any batch, any window."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper import DecoderConfig, EncoderConfig, HookedWhisper, WhisperConfig, local_window


def build() -> HookedWhisper:
    torch.manual_seed(1)
    model = HookedWhisper(
        WhisperConfig(EncoderConfig(8, 20, 16, 2, 2, 32), DecoderConfig(50, 16, 16, 2, 2, 32), "laws")
    ).double()
    for p in model.parameters():
        p.data = p.data + 0.3 * torch.randn_like(p)
    return model.requires_grad_(False)


MODEL = build()
MEL = torch.randn(3, 8, 40, dtype=torch.float64)
TOKENS = torch.randint(0, 50, (3, 7))
LOGITS, CACHE = MODEL.run_with_cache(MEL, TOKENS, names_filter=lambda name: True)
POINTS = MODEL.hook_names()


@given(names=st.lists(st.sampled_from(POINTS), min_size=1, max_size=6, unique=True))
@settings(max_examples=40)
def test_patching_clean_into_clean_changes_nothing(names):
    patches = [(name, lambda x, hook: CACHE[hook.name].clone()) for name in names]
    patched = MODEL.run_with_hooks(MEL, TOKENS, fwd_hooks=patches)
    assert torch.allclose(patched, LOGITS, rtol=1e-10, atol=1e-10)


@given(name=st.sampled_from([n for n in POINTS if "batch" in MODEL.hook_dict[n].axes]), row=st.integers(0, 2))
@settings(max_examples=40)
def test_patch_in_one_row_leaves_the_others(name, row):
    def edit(x):
        x[row] = x[row].flip(-1) if x.shape[-1] > 1 else 2 * x[row]

    patched = MODEL.run_with_hooks(MEL, TOKENS, fwd_hooks=[(name, edit)])
    others = [r for r in range(3) if r != row]
    assert torch.allclose(patched[others], LOGITS[others], rtol=1e-10, atol=1e-10)


@given(order=st.permutations(range(3)), size=st.integers(1, 3))
@settings(max_examples=15)
def test_batching_does_not_change_rows(order, size):
    rows = list(order)[:size]
    assert torch.allclose(MODEL(MEL[rows], TOKENS[rows]), LOGITS[rows], rtol=1e-10, atol=1e-10)


@given(t=st.integers(0, 6), token=st.integers(0, 49))
@settings(max_examples=25)
def test_the_decoder_is_causal(t, token):
    changed = TOKENS.clone()
    changed[:, t] = token
    logits = MODEL(MEL, changed)
    assert torch.allclose(logits[:, :t], LOGITS[:, :t], rtol=1e-10, atol=1e-10)
    if not torch.equal(changed, TOKENS):
        assert not torch.allclose(logits[:, t], LOGITS[:, t])


@given(k=st.integers(0, 30))
@settings(max_examples=20)
def test_window_masks_unless_it_covers_all_keys(k):
    masked = MODEL.run_with_hooks(MEL, TOKENS, attn_masks={"encoder": local_window(k)})
    assert torch.allclose(masked, LOGITS, rtol=1e-10, atol=1e-10) == (k >= 19)


@given(cuts=st.lists(st.integers(1, 6), unique=True, max_size=4).map(sorted))
@settings(max_examples=20)
def test_cached_decoding_in_chunks_equals_one_pass(cuts):
    encoded = MODEL.embed_audio(MEL)
    cache, _ = MODEL.install_kv_cache_hooks()
    edges = [0, *cuts, 7]
    steps = [MODEL.decoder(TOKENS[:, a:b], encoded, cache) for a, b in pairwise(edges)]
    assert torch.allclose(torch.cat(steps, 1), LOGITS, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_cached_parts_sum_to_the_residual(stack):
    parts, _ = CACHE.decompose_resid(stack, return_labels=True)
    assert torch.allclose(parts.sum(0), CACHE[stack, "resid_post", -1])
