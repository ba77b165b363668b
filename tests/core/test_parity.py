"""Our numbers are openai-whisper's and transformers' numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.parity import cached_logits, compare, hf_activations, openai_activations, record, relative_l2
from tests.core.twins import Twins

FLOAT32 = 1e-5
FLOAT64 = 1e-10


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_openai_float32(twins: Twins, batch: int) -> None:
    mel, tokens = twins.mel(batch), twins.tokens(17, batch)
    errors = compare(twins.core, openai_activations(twins.openai, mel, tokens), mel, tokens)
    assert record("openai-whisper float32", errors) < FLOAT32, errors


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_transformers_float32(twins: Twins, batch: int) -> None:
    mel, tokens = twins.mel(batch), twins.tokens(17, batch)
    errors = compare(twins.core, hf_activations(twins.hf, mel, tokens), mel, tokens)
    assert record("transformers float32", errors) < FLOAT32, errors


@pytest.mark.parametrize("batch", [1, 3])
def test_transformers_float64(twins: Twins, batch: int) -> None:
    mel, tokens = twins.mel(batch, dtype=torch.float64), twins.tokens(17, batch)
    errors = compare(twins.core64, hf_activations(twins.hf64, mel, tokens), mel, tokens)
    assert record("transformers float64", errors) < FLOAT64, errors


def test_dimensions_of_released_tiny(tiny: Twins) -> None:
    mel, tokens = tiny.mel(), tiny.tokens(5)
    theirs = openai_activations(tiny.openai, mel, tokens)
    errors = compare(tiny.core, theirs, mel, tokens)
    assert record("openai-whisper float32, tiny", errors) < FLOAT32, errors
    errors = compare(tiny.core, hf_activations(tiny.hf, mel, tokens), mel, tokens)
    assert record("transformers float32, tiny", errors) < FLOAT32, errors


def test_logits_are_of_order_one_to_ten(twins: Twins) -> None:
    """Otherwise a relative error would say little."""
    assert 1 < twins.core(twins.mel(), twins.tokens(9)).std() < 10


@pytest.mark.parametrize("batch", [1, 2, 3])
@torch.no_grad()
def test_every_length_from_1_to_40(twins: Twins, batch: int) -> None:
    mel = twins.mel(batch)
    encoder_out, encoder_out64 = twins.core.embed_audio(mel), twins.core64.embed_audio(mel.double())
    errors: dict[str, list[float]] = {"openai-whisper": [], "transformers": [], "transformers float64": []}
    for n in range(1, 41):
        tokens = twins.tokens(n, batch, seed=n)
        ours = twins.core.logits(tokens, encoder_out)
        errors["openai-whisper"].append(relative_l2(ours, twins.openai.logits(tokens, encoder_out)))
        theirs = twins.hf(encoder_outputs=(encoder_out,), decoder_input_ids=tokens, use_cache=False).logits
        errors["transformers"].append(relative_l2(ours, theirs))
        theirs = twins.hf64(encoder_outputs=(encoder_out64,), decoder_input_ids=tokens, use_cache=False).logits
        errors["transformers float64"].append(relative_l2(twins.core64.logits(tokens, encoder_out64), theirs))
    record("logits, lengths 1 to 40", {name: max(values) for name, values in errors.items()})
    assert max(errors["openai-whisper"] + errors["transformers"]) < FLOAT32
    assert max(errors["transformers float64"]) < FLOAT64


@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda c: sum(c) <= 40), batch=st.integers(1, 3)
)
@settings(max_examples=12)
@torch.no_grad()
def test_decoding_in_pieces_with_a_cache(odd: Twins, chunks: list[int], batch: int) -> None:
    tokens, mel = odd.tokens(sum(chunks), batch, seed=len(chunks)), odd.mel(batch)
    encoder_out = odd.core.embed_audio(mel)
    theirs = odd.openai.logits(tokens, encoder_out)
    error = relative_l2(cached_logits(odd.core, tokens, encoder_out, chunks), theirs)
    assert record("openai-whisper float32", {"logits, KV cache in mixed chunks": error}) < FLOAT32
    encoder_out = odd.core64.embed_audio(mel.double())
    theirs = odd.hf64(encoder_outputs=(encoder_out,), decoder_input_ids=tokens, use_cache=False).logits
    error = relative_l2(cached_logits(odd.core64, tokens, encoder_out, chunks), theirs)
    assert record("transformers float64", {"logits, KV cache in mixed chunks": error}) < FLOAT64


@torch.no_grad()
def test_cache_of_openai_gives_the_same_steps(odd: Twins) -> None:
    """Token by token, both with their own cache."""
    tokens, encoder_out = odd.tokens(12, 2), odd.core.embed_audio(odd.mel(2))
    cache, hooks = odd.openai.install_kv_cache_hooks()
    try:
        theirs = [odd.openai.decoder(tokens[:, i : i + 1], encoder_out, kv_cache=cache) for i in range(12)]
    finally:
        for hook in hooks:
            hook.remove()
    ours = cached_logits(odd.core, tokens, encoder_out, [1] * 12)
    assert (
        record("openai-whisper float32", {"logits, KV cache token by token": relative_l2(ours, torch.cat(theirs, 1))})
        < FLOAT32
    )


@torch.no_grad()
def test_one_clip_serves_many_rows_of_tokens(odd: Twins) -> None:
    tokens, encoder_out = odd.tokens(7, 3), odd.core.embed_audio(odd.mel(1))
    together = odd.core.logits(tokens, encoder_out)
    assert relative_l2(together, odd.core.logits(tokens, encoder_out.expand(3, -1, -1))) < 1e-6
    assert relative_l2(cached_logits(odd.core, tokens, encoder_out, [4, 1, 2]), together) < FLOAT32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@torch.no_grad()
def test_half_precision_mel_with_float32_weights(odd: Twins, dtype: torch.dtype, tolerance: float) -> None:
    """As openai-whisper runs: weights stay float32, activations follow the mel."""
    mel, tokens = odd.mel(2), odd.tokens(9, 2)
    encoder_out = odd.core.embed_audio(mel.to(dtype))
    logits = odd.core.logits(tokens, encoder_out)
    assert (encoder_out.dtype, logits.dtype) == (dtype, torch.float32)
    assert relative_l2(logits, odd.core(mel, tokens)) < tolerance
    theirs = odd.openai(mel.to(dtype), tokens)
    assert record(f"openai-whisper {dtype}", {"logits": relative_l2(logits, theirs)}) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@torch.no_grad()
def test_half_precision_weights(odd: Twins, dtype: torch.dtype, tolerance: float) -> None:
    half = copy.deepcopy(odd.core).to(dtype)
    mel, tokens = odd.mel(2), odd.tokens(9, 2)
    logits = half(mel.to(dtype), tokens)
    assert logits.dtype == torch.float32 and half.dtype == dtype
    assert relative_l2(logits, odd.core(mel, tokens)) < tolerance
    _, cache = half.run_with_cache(mel.to(dtype), tokens, names_filter="*.hook_pattern")
    assert relative_l2(cache["decoder", "cross_pattern", -1].sum(-1), torch.ones(2, 3, 9)) < tolerance
