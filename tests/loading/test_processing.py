"""Weight processing keeps the function and does what its name says."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hooked_whisper.loading import (
    center_unembed,
    center_writing_weights,
    fold_ln,
    fold_value_biases,
    process_weights,
)
from hooked_whisper.model import WhisperCore, local_window
from hooked_whisper.model.layers import LayerNorm
from tests.core.parity import relative_l2
from tests.core.twins import Twins

EXACT = [fold_ln, center_writing_weights, fold_value_biases]
ALL = [*EXACT, center_unembed, process_weights]
Step = Callable[[WhisperCore], None]


@torch.no_grad()
def outputs(model: WhisperCore, twins: Twins, log_probs: bool) -> Tensor:
    logits = model(twins.mel(2, dtype=model.dtype), twins.tokens(9, batch=2))
    return logits.log_softmax(-1) if log_probs else logits


def processed(model: WhisperCore, step: Step) -> WhisperCore:
    model = copy.deepcopy(model)
    step(model)
    return model


@pytest.mark.parametrize("step", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_same_function(twins: Twins, step, dtype, tolerance):
    before = twins.core64 if dtype == torch.float64 else twins.core
    log_probs = step not in EXACT
    want, got = outputs(before, twins, log_probs), outputs(processed(before, step), twins, log_probs)
    assert (got - want).abs().max() < tolerance
    assert relative_l2(got, want) < tolerance


@pytest.mark.parametrize("order", [ALL[:4], ALL[3::-1], [fold_ln, fold_ln], [process_weights, process_weights]])
def test_any_order_and_twice(odd: Twins, order):
    model = copy.deepcopy(odd.core64)
    for step in order:
        step(model)
    assert (outputs(model, odd, True) - outputs(odd.core64, odd, True)).abs().max() < 1e-9


@pytest.mark.parametrize("step", ALL)
def test_same_function_under_a_mask_and_with_a_cache(odd: Twins, step):
    mel, tokens = odd.mel(dtype=torch.float64), odd.tokens(5)
    results = []
    for model in (odd.core64, processed(odd.core64, step)):
        with torch.no_grad(), model.hooks(attn_masks={"encoder": local_window(7)}):
            encoded = model.embed_audio(mel)
            kv_cache, _ = model.install_kv_cache_hooks()
            steps = [model.decoder(tokens[:, i : i + 1], encoded, kv_cache) for i in range(5)]
        results.append(torch.cat(steps, 1).log_softmax(-1))
    assert (results[0] - results[1]).abs().max() < 1e-9


def test_fold_ln_leaves_plain_norms_and_the_embedding(odd: Twins):
    model = processed(odd.core, fold_ln)
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    assert len(norms) == 2 * 2 + 3 * 3 + 2
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))
    assert torch.equal(model.W_E, odd.core.W_E)
    assert not torch.equal(model.W_U, odd.core.W_U)
    assert all(attn.key.bias is None for attn in model.attention_modules().values())


def test_fold_ln_keeps_patterns_and_shifts_scores_by_a_constant_per_row(odd: Twins):
    mel, tokens = odd.mel(dtype=torch.float64), odd.tokens(5)
    names = "decoder.*.hook_attn_scores", "decoder.*.hook_pattern"
    _, before = odd.core64.run_with_cache(mel, tokens, names_filter=list(names))
    _, after = processed(odd.core64, fold_ln).run_with_cache(mel, tokens, names_filter=list(names))
    for kind in ("cross_attn_scores", "cross_pattern"):
        moved = after["decoder", kind, 1] - before["decoder", kind, 1]
        assert (moved - moved.mean(-1, keepdim=True)).abs().max() < 1e-9
        assert (moved.abs().max() > 1e-3) == (kind == "cross_attn_scores")


def test_centered_weights_write_no_mean(odd: Twins):
    model = processed(odd.core64, center_writing_weights)
    assert model.W_E.mean(-1).abs().max() < 1e-12
    assert torch.equal(model.W_U, odd.core64.W_U)
    for stack in (model.encoder, model.decoder, model.decoder.cross):
        assert stack.W_O.mean(-1).abs().max() < 1e-12
        assert stack.b_O.mean(-1).abs().max() < 1e-12
    for stack in (model.encoder, model.decoder):
        assert stack.W_out.mean(-1).abs().max() < 1e-12
        assert stack.b_out.mean(-1).abs().max() < 1e-12
        assert stack.positional_embedding.mean(-1).abs().max() < 1e-12


def test_centered_streams(odd: Twins):
    """The decoder's residual has no mean; the encoder's has that of the conv stem, in every block."""
    model = processed(odd.core64, center_writing_weights)
    _, cache = model.run_with_cache(odd.mel(dtype=torch.float64), odd.tokens(5))
    for block in range(3):
        assert cache["decoder", "resid_post", block].mean(-1).abs().max() < 1e-12
    stem = cache["encoder.hook_embed"].mean(-1)
    assert stem.abs().max() > 1e-3
    for block in range(2):
        assert (cache["encoder", "resid_post", block].mean(-1) - stem).abs().max() < 1e-12


def test_folded_value_biases_are_zero(odd: Twins):
    model = processed(odd.core, fold_value_biases)
    for stack in (model.encoder, model.decoder, model.decoder.cross):
        assert not stack.b_V.any()


def test_centered_unembedding(odd: Twins):
    model = processed(odd.core64, center_unembed)
    assert model.W_U.mean(-1).abs().max() < 1e-12
    assert torch.equal(model.W_E, odd.core64.W_E)
    moved = outputs(model, odd, False) - outputs(odd.core64, odd, False)
    assert (moved - moved.mean(-1, keepdim=True)).abs().max() < 1e-12
    model = processed(odd.core64, process_weights)
    assert outputs(model, odd, False).mean(-1).abs().max() < 1e-10


def test_empty_request_changes_nothing(one_block: Twins):
    off = {"fold_ln": False, "center_writing_weights": False, "fold_value_biases": False, "center_unembed": False}
    model = processed(one_block.core, lambda m: process_weights(m, **off))
    assert model.state_dict().keys() == one_block.core.state_dict().keys()
    process_weights(model, **(off | {"fold_value_biases": True}))
    assert model.decoder.unembed.weight is None and not model.decoder.b_V.any()
    assert not torch.equal(model.decoder.ln_final.weight, torch.ones(32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype(one_block: Twins, dtype):
    model = processed(copy.deepcopy(one_block.core).to(dtype), process_weights)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(parameter.requires_grad for parameter in model.parameters())
