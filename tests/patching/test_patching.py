"""A batched sweep equals one hooked forward pass per patch, and changes only what depends on the patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import PatchError
from hooked_whisper.patching import (
    COMPONENTS,
    KLDivergence,
    Patch,
    RunInputs,
    WordLogProb,
    agreement,
    first_difference,
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_out,
    get_act_patch_block_every,
    get_act_patch_mlp_out,
    get_act_patch_resid_pre,
    localization,
    make_grid,
    patch,
    read_metric,
    read_positions,
    run_patches,
    token_spans,
)
from hooked_whisper.protocols import Interval


def hooked_metric(model, one_patch: Patch, base: RunInputs, source: RunInputs, metric) -> float:
    """One full forward pass with one hook."""
    with torch.no_grad():
        _, source_cache = model.run_with_cache(source.mel, source.tokens, names_filter=list(one_patch.names))

        def hook(x, hook):
            mask, new = one_patch.mask(hook, x.shape)[None], source_cache[hook.name]
            if one_patch.subspaces is not None:
                new = one_patch.subspaces.replaced(x, new, torch.tensor([one_patch.part]))
            return torch.where(mask, x + one_patch.project(new - x) if one_patch.directions is not None else new, x)

        with model.hooks(fwd_hooks=[(list(one_patch.names), hook)]):
            encoded = model.encoder(base.mel)
            return float(read_metric(model, model.decoder.hidden(base.tokens, encoded), metric))


COMPONENTS_BY_STACK = [
    (stack, component)
    for stack in ("encoder", "decoder")
    for component in COMPONENTS
    if stack == "decoder" or "cross" not in component
]


@pytest.mark.parametrize(("stack", "component"), COMPONENTS_BY_STACK)
def test_a_sweep_equals_one_forward_pass_per_patch(model, pair, stack, component):
    # other tokens too, so that every decoder component differs between the runs
    corrupt = replace(pair.corrupt, tokens=pair.corrupt.tokens.roll(1, dims=1))
    over_tokens = stack == "decoder" and component not in ("cross_k", "cross_v", "cross_kv")
    spans = [read_positions((i, i + 2)) for i in (0, 2, 4)] if over_tokens else pair.spans
    heads = "head" in model.hook_dict[make_grid(model, component, stack, blocks=[0]).patches[0].name].axes
    grid = make_grid(model, component, stack, spans=spans, per_head=heads)
    done = run_patches(model, grid.patches, corrupt, pair.clean, pair.metric, encoder_rows=5, decoder_rows=7)
    expected = [hooked_metric(model, single, corrupt, pair.clean, pair.metric) for single in grid.patches]
    np.testing.assert_allclose(done.values.numpy(), expected, rtol=2e-5, atol=2e-5)
    assert len(set(np.round(expected, 4))) > 1, "all patches have the same effect: the test shows nothing"


@pytest.mark.parametrize(
    "name",
    ["encoder.hook_mel", "encoder.conv2.hook_post", "encoder.hook_embed", "encoder.hook_out", "decoder.hook_embed"],
)
def test_whole_points(model, pair, name):
    corrupt = replace(pair.corrupt, tokens=pair.corrupt.tokens.roll(1, dims=1))
    whole = Patch(name)
    done = run_patches(model, [whole], corrupt, pair.clean, pair.metric)
    expected = hooked_metric(model, whole, corrupt, pair.clean, pair.metric)
    assert done.values[0].item() == pytest.approx(expected, abs=2e-5)


def test_patching_everything_restores_the_clean_run(model, pair):
    for component in ("encoder.hook_mel", "encoder.hook_embed", "encoder.hook_out"):
        whole = patch(model, [pair], component, "encoder", over=())
        assert whole.mean == pytest.approx(1, abs=1e-4)
    restored = patch(model, [pair], "resid_post", "decoder", blocks=[1], token_spans=token_spans(["x"] * 6))
    np.testing.assert_allclose(restored.mean[0], [0, 0, 0, 0, 0, 1], atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["resid_pre", "z", "pattern", "mlp_post", "q"]),
    st.sampled_from(["encoder", "decoder"]),
    st.booleans(),
)
def test_patching_a_run_into_itself_changes_nothing(model, pair, component, stack, noise):
    same = replace(pair, corrupt=pair.clean)
    spans = token_spans(["x"] * 6)
    direction = "noise" if noise else "denoise"
    done = patch(model, [same], component, stack, token_spans=spans, direction=direction)
    np.testing.assert_allclose(done.values, np.broadcast_to(done.base[0], done.values.shape), rtol=1e-5, atol=1e-5)
    assert np.isnan(done.effect).all() and np.isnan(done.mean).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.sampled_from(["resid_pre", "z", "mlp_out", "cross_attn_out", "v"]))
def test_a_patch_at_one_token_and_row_changes_no_earlier_token_and_no_other_row(model, pair, token, component):
    noise = torch.Generator().manual_seed(token)
    source = replace(pair.clean, tokens=torch.randint(0, 60, (1, 6), generator=noise))
    grid = make_grid(model, component, "decoder", spans=[token])
    for index in range(6):
        metric = replace(pair.metric, index=index)
        alone = run_patches(model, grid.patches, pair.corrupt, source, metric)
        if index < token:
            np.testing.assert_allclose(alone.values, alone.base, atol=1e-5)
    together = run_patches(model, [*grid.patches, *grid.patches[::-1]], pair.corrupt, source, pair.metric)
    alone = run_patches(model, grid.patches, pair.corrupt, source, pair.metric)
    np.testing.assert_allclose(together.values, torch.cat([alone.values, alone.values.flip(0)]), atol=1e-5)


@pytest.mark.parametrize("component", ["attn_out", "z", "resid_mid"])
def test_resumed_pass_equals_a_full_pass(model, pair, component):
    """In an encoder block with patched attention, the MLP runs only at the changed positions."""
    grid = make_grid(model, component, "encoder", spans=pair.spans)
    short = run_patches(model, grid.patches, pair.corrupt, pair.clean, pair.metric)
    with model.hooks(
        fwd_hooks=[("encoder.blocks.*.hook_mlp_in", lambda x: None)]
    ):  # with a hook, the MLP runs everywhere
        whole = run_patches(model, grid.patches, pair.corrupt, pair.clean, pair.metric)
    np.testing.assert_allclose(short.values, whole.values, atol=1e-6)


def test_encoder_output_outside_the_span_stays(model, pair):
    """In the first block's attention output, a patch reaches other positions only through later attention."""
    seen = {}
    grid = make_grid(model, "resid_post", "encoder", blocks=[1], spans=pair.spans)
    with model.hooks(fwd_hooks=[("encoder.hook_out", lambda x: seen.update(out=x.clone()))]):
        run_patches(model, grid.patches, pair.corrupt, pair.clean, pair.metric, encoder_rows=8)
        patched = seen["out"]
        model.encoder(pair.corrupt.mel)
    for row, span in enumerate(pair.spans):
        outside = torch.ones(24, dtype=torch.bool)
        outside[span.start : span.stop] = False
        torch.testing.assert_close(patched[row, outside], seen["out"][0, outside])
        assert not torch.allclose(patched[row, ~outside], seen["out"][0, ~outside]) or row != 1


def test_directions_and_units(model, pair):
    everything = torch.eye(16)
    whole = patch(model, [pair], "resid_pre", "encoder")
    spanned = patch(model, [pair], "resid_pre", "encoder", directions=everything)
    np.testing.assert_allclose(spanned.values, whole.values, rtol=1e-4, atol=1e-4)
    single = patch(model, [pair], "resid_pre", "encoder", directions=torch.randn(1, 16))
    assert not np.allclose(single.values, whole.values, atol=1e-4)
    neurons = patch(model, [pair], "mlp_post", "encoder", over=("block", "unit"), units=[0, 3, 5])
    assert neurons.values.shape == (1, 2, 3) and neurons.axes[1].name == "d_mlp"


def test_attribution_is_exact_where_the_model_is_linear_and_agrees_elsewhere(model, pair):
    mixed = replace(pair.clean, mel=pair.clean.mel + 0.1 * (pair.corrupt.mel - pair.clean.mel))
    mixed_pair = replace(pair, corrupt=mixed)
    exact = patch(model, [mixed_pair], "resid_pre", "encoder")
    estimate = patch(model, [mixed_pair], "resid_pre", "encoder", method="attribution")
    assert estimate.values.shape == exact.values.shape and agreement(exact, estimate)[0] > 0.7
    # a small change is linear
    near = replace(pair.clean, mel=pair.clean.mel + 1e-3 * (pair.corrupt.mel - pair.clean.mel))
    close = replace(pair, corrupt=near)
    heads = ("block", "span", "head")
    runs = [patch(model, [close], "z", "encoder", over=heads, method=method) for method in ("exact", "attribution")]
    changes = [run.values - run.base[0] for run in runs]
    np.testing.assert_allclose(changes[0], changes[1], rtol=0.1, atol=3e-5)
    neurons = patch(
        model, [close], "mlp_post", "encoder", over=("block", "unit"), units=range(32), method="attribution"
    )
    assert neurons.values.shape == (1, 2, 32)


def test_results_are_labeled(model, pair):
    pairs = [pair, replace(pair, label="two", clean=pair.corrupt, corrupt=pair.clean)]
    done = patch(model, pairs, "z", "encoder", over=("block", "span", "head"))
    assert [axis.name for axis in done.axes] == ["block", "span", "head"] and done.effect.shape == (2, 2, 3, 2)
    low, high = done.interval(draws=50)
    assert low.shape == done.mean.shape and (low <= done.mean + 1e-9).all() and (done.mean <= high + 1e-9).all()
    rows = done.to_rows()
    assert len(rows) == 24 and rows[1]["head"] == "1" and rows[0]["span"] == "0.00-0.16 s" and rows[-1]["pair"] == "two"
    assert repr(done).startswith("PatchResult: encoder z, denoise, 2 pairs, exact")
    assert done.plot().axes
    pandas = pytest.importorskip("pandas")
    assert isinstance(done.to_pandas(), pandas.DataFrame)


def test_metrics():
    logits = torch.randn(3, 2, 10)
    word = WordLogProb((4, 6), index=3)
    assert word.at == (3, 4)
    expected = logits.log_softmax(-1)[:, 0, 4] + logits.log_softmax(-1)[:, 1, 6]
    torch.testing.assert_close(word(logits), expected)
    divergence = KLDivergence(logits[0], (1, 2))(logits)
    assert divergence[0] == pytest.approx(0, abs=1e-6) and (divergence[1:] > 0).all()
    metric = first_difference([1, 2, 3, 4], [1, 2, 5, 4])
    assert (metric.answer, metric.foil, metric.at) == (3, 5, (1,))
    with pytest.raises(PatchError, match="do not differ"):
        first_difference([1, 2], [1, 2])
    effect, spans = [1.0, -2.0, 1.0], [(0.0, 0.2), (0.2, 0.4), (0.6, 0.8)]
    assert localization(effect, spans, (0.2, 0.4)) == pytest.approx(0.75)
    assert np.isnan(localization([0.0, 0.0], spans[:2], (0, 1)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("resid_pree", "encoder"), "did you mean 'resid_pre'"),
        (("cross_z", "encoder"), "no hook point"),
        (("encoder.hook_pos_embed", "encoder"), "hook_pos_embed.*batch axis"),
    ],
)
def test_errors_name_the_cause(model, pair, arguments, match):
    with pytest.raises(PatchError, match=match):
        patch(model, [replace(pair, spans=())], *arguments)


def test_more_errors(model, pair):
    with pytest.raises(PatchError, match="inside the 24 positions"):
        patch(model, [replace(pair, spans=((20, 30),))], "resid_pre", "encoder")
    with pytest.raises(PatchError, match="has no heads"):
        make_grid(model, "resid_pre", "encoder", per_head=True)
    with pytest.raises(PatchError, match="reads after tokens"):
        patch(model, [replace(pair, metric=replace(pair.metric, index=6))], "resid_pre", "encoder")
    with pytest.raises(PatchError, match="3 clean and 6 corrupt tokens"):
        replace(pair, clean=RunInputs(pair.clean.tokens[:, :3], pair.clean.mel))
    with pytest.raises(PatchError, match="runs with a mel"):
        encoded = RunInputs(pair.clean.tokens, encoder_out=torch.zeros(1, 24, 16))
        patch(model, [replace(pair, clean=encoded, corrupt=encoded)], "resid_pre", "encoder")
    with pytest.raises(PatchError, match="either a mel"):
        RunInputs(pair.clean.tokens)


def test_the_result_has_the_axes_of_over_in_its_order(model, pair):
    plain = patch(model, [pair], "z", over=("block", "span", "head"))
    turned = patch(model, [pair], "z", over=("head", "block", "span"))
    assert [axis.name for axis in turned.axes] == ["head", "block", "span"]
    np.testing.assert_array_equal(turned.values, np.moveaxis(plain.values, 3, 1))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"over": ("head",)}, "block"),
        ({"over": ("block", "block")}, "twice"),
        ({"over": ("block", "feature")}, "subspaces"),
        ({"over": ("block",), "units": [0]}, "units"),
        ({"over": ("block", "heads")}, "did you mean 'head'"),
        ({"method": "exat"}, "did you mean 'exact'"),
    ],
)
def test_axes_and_methods_that_do_not_fit_are_refused(model, pair, unchecked, options, word):
    with pytest.raises(PatchError, match=word):
        patch(model, [pair], "z", **options)


def test_sweeps_with_the_names_of_transformer_lens(model, pair):
    spans = token_spans(["x"] * 6)
    for stack in ("encoder", "decoder"):
        every = get_act_patch_block_every(model, [pair], stack, token_spans=spans)
        sweeps = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
        each = [sweep(model, [pair], stack, token_spans=spans).values for sweep in sweeps]
        np.testing.assert_array_equal(every.values, np.stack(each, axis=1))
        assert [axis.name for axis in every.axes] == ["component", "block", "span"]
    for stack, component in (("encoder", "z"), ("decoder", "z"), ("cross", "cross_z")):
        heads = get_act_patch_attn_head_out_all_pos(model, [pair], stack)
        module = "encoder" if stack == "encoder" else "decoder"
        same = patch(model, [pair], component, module, over=("block", "head"))
        assert [axis.name for axis in heads.axes] == ["block", "head"] and heads.site == same.site
        np.testing.assert_array_equal(heads.values, same.values)


def test_spans_may_be_words_seconds_and_positions(model, pair):
    """A span is whatever ``read_positions`` takes."""
    word = Interval(0.16, 0.32, "word")
    by_word = patch(model, [replace(pair, spans=(word, (0, 8)))], "resid_pre")
    span = model.time.span(word.start, word.end, "outer")
    by_position = patch(model, [replace(pair, spans=((span.start, span.stop), slice(0, 8)))], "resid_pre")
    np.testing.assert_array_equal(by_word.values, by_position.values)
    assert by_word.axes[1].labels == ("word", "0.00-0.16 s")


@pytest.mark.parametrize("everywhere", [False, True])
def test_sweeps_run_pre_hooks_of_torch(model, pair, everywhere):
    def swept():
        return patch(model, [pair], "resid_pre", "encoder").values

    block, expected, inputs = model.decoder.blocks[1], swept(), []

    def entered(module, args):
        if module is block:
            inputs.append(args[0])

    register = torch.nn.modules.module.register_module_forward_pre_hook
    handle = register(entered) if everywhere else block.register_forward_pre_hook(entered)
    try:
        np.testing.assert_allclose(swept(), expected, rtol=1e-5, atol=1e-5)
    finally:
        handle.remove()
    assert len(inputs) > 2, "more than the two caching runs"
