"""Patches inside the encoder: shortcuts give the numbers of a full pass, and step aside where something acts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model import local_window
from hooked_whisper.patching import (
    CleanCorruptPair,
    LogitDifference,
    RunInputs,
    attribute_patches,
    make_grid,
    patch,
    run_patches,
    window_spans,
)
from hooked_whisper.patching.encoder_sweep import SETS, EncoderSweep
from hooked_whisper.patching.frozen_positions import free_positions
from hooked_whisper.patching.short_decoder import decode_over
from hooked_whisper.patching.split_attention import SplitAttention
from tests.patching.conftest import N_POSITIONS, small_model
from tests.patching.test_patching import hooked_metric

N, N_SOUND = N_POSITIONS, 10
POINTS = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")


@pytest.fixture(scope="module")
def deep() -> HookedWhisper:
    """Three blocks, so that a patch in the first is followed by a split attention and by a block that runs in full."""
    return small_model(3, 0.3, torch.float64)


@pytest.fixture(scope="module")
def padded() -> CleanCorruptPair:
    """Runs whose window is padding after the sound."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(1, 80, 2 * N, generator=generator).double()
    clean[..., 2 * N_SOUND :] = -1
    corrupt = clean.clone()
    corrupt[:, :, 4:12] = torch.randn(1, 80, 8, generator=generator).double()
    tokens = torch.randint(0, 60, (1, 6), generator=generator)
    spans = window_spans(N_SOUND, 3)
    return CleanCorruptPair(
        RunInputs(tokens, clean), RunInputs(tokens, corrupt), LogitDifference(answer=7, foil=9, index=4), spans
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(POINTS),
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, N - 1)), min_size=1, max_size=SETS + 2),
    st.integers(1, 4),
)
def test_a_sweep_equals_one_full_pass_per_patch_in_float64(deep, padded, point, edges, rows):
    """Any spans: overlapping, adjacent, equal, and more than are split at once."""
    spans = [(start, min(N, start + length)) for start, length in edges]
    grid = make_grid(deep, point, "encoder", spans=spans)
    sweep = run_patches(deep, grid.patches, padded.corrupt, padded.clean, padded.metric, encoder_rows=rows)
    sample = range(0, len(grid.patches), max(1, len(grid.patches) // 4))
    expected = [hooked_metric(deep, grid.patches[k], padded.corrupt, padded.clean, padded.metric) for k in sample]
    np.testing.assert_allclose(sweep.values[list(sample)].numpy(), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_span_with_nearly_all_attention_loses_no_digits(deep):
    """Subtracting the span from the sum over all keys would leave only rounding errors here."""
    block = deep.encoder.blocks[1]
    x = torch.randn(1, N, 16, generator=torch.Generator().manual_seed(2)).double()
    in_set = torch.zeros(N, dtype=torch.bool)
    in_set[4:8] = True
    x[:, in_set] *= 30
    scale = block.attn.key.weight.data.clone()
    try:
        block.attn.key.weight.data.mul_(40)
        split = SplitAttention.of(block, x, [in_set])
        new = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(3)).double()
        changed = x.clone()
        changed[:, in_set] = new
        output = split.output(0, in_set.nonzero()[:, 0], new)
        torch.testing.assert_close(output, block(changed), rtol=1e-10, atol=1e-10)
    finally:
        block.attn.key.weight.data = scale


@pytest.mark.parametrize("where", ["encoder.blocks.1.attn.hook_pattern", "encoder.blocks.2.hook_mlp_out"])
def test_hooks_in_later_blocks_stay_live(deep, padded, where):
    grid = make_grid(deep, "z", "encoder", blocks=[0], spans=padded.spans)
    with deep.hooks(fwd_hooks=[(where, lambda x: 0.5 * x)]):
        sweep = run_patches(deep, grid.patches, padded.corrupt, padded.clean, padded.metric)
        expected = [hooked_metric(deep, single, padded.corrupt, padded.clean, padded.metric) for single in grid.patches]
    np.testing.assert_allclose(sweep.values.numpy(), expected, rtol=0, atol=1e-10)


def test_masks_are_not_left_out(deep, padded):
    grid = make_grid(deep, "resid_post", "encoder", spans=padded.spans)
    with deep.hooks(attn_masks={"encoder": local_window(2)}):
        sweep = run_patches(deep, grid.patches, padded.corrupt, padded.clean, padded.metric)
        expected = [hooked_metric(deep, single, padded.corrupt, padded.clean, padded.metric) for single in grid.patches]
    np.testing.assert_allclose(sweep.values.numpy(), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_short_decoder_equals_the_decoder(deep, padded):
    tokens = padded.clean.tokens
    encoded = torch.randn(3, N, 16, generator=torch.Generator().manual_seed(4)).double()
    resid = deep.run_with_cache(tokens=tokens, encoder_out=encoded[:1], names_filter="decoder.blocks.0.hook_resid_pre")
    resid = resid[1]["decoder.blocks.0.hook_resid_pre"]
    expected = deep.decoder.hidden(tokens.expand(3, -1), encoded)
    torch.testing.assert_close(decode_over(deep, resid, encoded), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(decode_over(deep, resid, encoded, [2, 4])[:, [2, 4]], expected[:, [2, 4]])
    seen = []
    with deep.hooks(fwd_hooks=[("decoder.blocks.*.cross_attn.hook_k", lambda x: seen.append(x.shape))]):
        torch.testing.assert_close(decode_over(deep, resid, encoded), expected, rtol=1e-10, atol=1e-10)
    assert len(seen) == 2


# --- the window of the sound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_all_positions_free_is_exact(deep, padded, point):
    full = patch(deep, [padded], point)
    sound = patch(deep, [padded], point, window="sound", beyond=N)
    np.testing.assert_allclose(sound.values, full.values, rtol=0, atol=1e-10)
    assert full.deviation is None and sound.deviation is not None and sound.deviation[0] < 1e-10


@pytest.mark.parametrize("point", ["resid_pre", "k", "z", "resid_post"])
def test_padding_keeps_the_activations_of_the_base_run(deep, padded, point):
    """A full pass in which hooks put the base run's residuals back into the padding after each block."""
    spans = padded.spans[:2]
    grid = make_grid(deep, point, "encoder", blocks=[0], spans=spans)
    sound = run_patches(
        deep, grid.patches, padded.corrupt, padded.clean, padded.metric, window="sound", beyond=2, check=len(spans)
    )
    names = [f"encoder.blocks.{number}.hook_resid_post" for number in range(3)]
    _, base = deep.run_with_cache(padded.corrupt.mel, padded.corrupt.tokens, names_filter=names)

    def restore(x, hook):
        return torch.cat([x[:, : N_SOUND + 2], base[hook.name][:, N_SOUND + 2 :]], dim=1)

    with deep.hooks(fwd_hooks=[(names, restore)]):
        expected = [hooked_metric(deep, single, padded.corrupt, padded.clean, padded.metric) for single in grid.patches]
    np.testing.assert_allclose(sound.values.numpy(), expected, rtol=0, atol=1e-10)
    full = run_patches(deep, grid.patches, padded.corrupt, padded.clean, padded.metric)
    assert sound.deviation == pytest.approx(float((sound.values - full.values).abs().max()), abs=1e-12)
    assert (sound.deviation > 1e-6) == (point != "resid_post") or point == "resid_post"


def test_results_state_the_deviation(deep, padded):
    sound = patch(deep, [padded, padded], "z", window="sound", beyond=0)
    assert sound.deviation is not None and sound.deviation.shape == (2,) and "window='sound'" in repr(sound)
    assert "window='sound'" not in repr(patch(deep, [padded], "z"))


def test_free_positions_fill_whole_windows():
    assert free_positions(7, 24).tolist() == list(range(8))  # 8 divides 24
    assert len(free_positions(30, 24)) == 24


def test_patches_of_padding_run_in_full(deep, padded):
    spans = (*padded.spans, (N - 4, N))
    full, sound = (patch(deep, [replace(padded, spans=spans)], "z", window=window) for window in ("full", "sound"))
    np.testing.assert_allclose(sound.values[..., -1], full.values[..., -1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("component", "stack", "options", "words"),
    [
        ("z", "decoder", {"window": "sound"}, "outside"),
        ("encoder.hook_out", "encoder", {"window": "sound"}, "encoder.hook_out is outside"),
        ("z", "encoder", {"window": "sounds"}, "did you mean 'sound'"),
        ("z", "encoder", {"window": "sound", "method": "attribution"}, "method='exact'"),
    ],
)
def test_windows_that_do_not_apply_are_refused(deep, padded, unchecked, component, stack, options, words):
    pair = replace(padded, spans=()) if stack == "decoder" else padded
    with pytest.raises(PatchError, match=words):
        patch(deep, [pair], component, stack, **options)


def test_a_hook_in_the_encoder_refuses_the_window_of_the_sound(deep, padded):
    with (
        deep.hooks(fwd_hooks=[("encoder.blocks.2.hook_mlp_out", lambda x: x)]),
        pytest.raises(PatchError, match="acts in the encoder"),
    ):
        patch(deep, [padded], "z", window="sound")


def test_patches_of_all_positions_run_in_full(deep, padded):
    whole = make_grid(deep, "z", "encoder", per_head=True)
    sweep = EncoderSweep(deep, {p.name: torch.zeros(1, N, 2, 8) for p in whole.patches}, {}, 2)
    assert not any(sweep.shares_work(single) for single in whole.patches)


# --- attribution -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["z", "mlp_post", "resid_pre"]),
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, N)), min_size=1, max_size=4),
    st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True),
    st.booleans(),
)
def test_attribution_sums_difference_times_gradient_over_each_mask(deep, padded, point, edges, units, per_head):
    spans = [(start, min(N, start + length)) for start, length in edges]
    grid = make_grid(deep, point, "encoder", spans=spans, units=units, per_head=per_head and point == "z")
    estimate = attribute_patches(deep, grid, padded.corrupt, padded.clean, padded.metric)
    names = list({single.name for single in grid.patches})
    _, source = deep.run_with_cache(padded.clean.mel, padded.clean.tokens, names_filter=names)
    metric = padded.metric

    def loss(logits):
        return logits[0, metric.index, metric.answer] - logits[0, metric.index, metric.foil]

    _, base = deep.run_with_cache(
        padded.corrupt.mel, padded.corrupt.tokens, names_filter=names, incl_bwd=True, loss_fn=loss
    )
    for value, single in zip(estimate.values, grid.patches, strict=True):
        product = (source[single.name] - base[single.name]) * base[f"{single.name}_grad"]
        expected = (product[0] * single.mask(deep.hook_dict[single.name], product.shape)).sum()
        assert float(value) - estimate.base == pytest.approx(float(expected), abs=1e-10)
