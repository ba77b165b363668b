"""Relevance equals the published rules written as loops, and satisfies their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import (
    OwnTranscript,
    Transcript,
    attention_rollout,
    audio_relevance,
    encoder_relevance,
    mel_relevance,
)
from hooked_whisper.analysis.relevance import propagated_rows, relevance_through_cross
from tests.core.twins import listeners
from tests.findings.worlds import small_model


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    """Two blocks per stack in float64, with unequal gains and patterns."""
    model = small_model(3, n_ctx=20).double()
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if name.endswith(("query.weight", "key.weight")):
            p.data *= 4
        if ".ln" in name and name.endswith("weight"):
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def mel() -> Tensor:
    return torch.randn(3, 80, 40, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def tokens(model: HookedWhisper) -> Tensor:
    rows = [" the red cat", " a big dog", " one blue hat"]
    return torch.cat([model.to_tokens(text) for text in rows])


def slow_cam(pattern: Tensor, grad: Tensor) -> Tensor:
    """Rule 5 for one clip: ``[head, query, key] -> [query, key]``."""
    heads, queries, keys = pattern.shape
    out = torch.zeros(queries, keys, dtype=pattern.dtype)
    for i in range(queries):
        for j in range(keys):
            out[i, j] = sum(max(float(grad[h, i, j] * pattern[h, i, j]), 0.0) for h in range(heads)) / heads
    return out


def slow_bar(r: Tensor) -> Tensor:
    """Rules 8 and 9."""
    out = torch.eye(len(r), dtype=r.dtype)
    for i in range(len(r)):
        hat = [float(r[i, j]) - (i == j) for j in range(len(r))]
        for j in range(len(r)):
            out[i, j] += hat[j] / sum(hat) if sum(hat) > 0 else 0.0
    return out


def slow_relevance(model: HookedWhisper, mel: Tensor, tokens: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """``R_aa`` and ``R_ta`` of one clip for the log-probability of one token, by run_with_cache and loops."""
    _, cache = model.run_with_cache(
        mel,
        tokens[:, :index],
        names_filter="*.hook_pattern",
        incl_bwd=True,
        loss_fn=lambda logits: logits[0, -1].log_softmax(-1)[tokens[0, index]],
    )

    def cam(name: str) -> Tensor:
        return slow_cam(cache[name][0], cache[f"{name}_grad"][0])

    r_aa = torch.eye(20, dtype=torch.float64)
    for block in range(2):
        r_aa = r_aa + cam(f"encoder.blocks.{block}.attn.hook_pattern") @ r_aa
    r_tt, r_ta = torch.eye(index, dtype=torch.float64), torch.zeros(index, 20, dtype=torch.float64)
    for block in range(2):
        self_map = cam(f"decoder.blocks.{block}.attn.hook_pattern")
        r_tt, r_ta = r_tt + self_map @ r_tt, r_ta + self_map @ r_ta
        across = cam(f"decoder.blocks.{block}.cross_attn.hook_pattern")
        r_ta = r_ta + slow_bar(r_tt).T @ across @ slow_bar(r_aa)
    return r_aa, r_ta


def test_audio_relevance_equals_a_loop_implementation(model, mel, tokens) -> None:
    fast = audio_relevance(model, mel[:1], tokens[:1], indices=[4, 6])
    for k, index in enumerate((4, 6)):
        _, slow = slow_relevance(model, mel[:1], tokens[:1], index)
        torch.testing.assert_close(fast.values[0, k], slow[index - 1], rtol=1e-8, atol=1e-14)
    assert fast.values.min() >= 0 and fast.values.max() > 0


def test_encoder_relevance_equals_a_loop_implementation(model, mel, tokens) -> None:
    first = tokens[:1, :6]
    fast = encoder_relevance(model, mel[:1], target=Transcript(model, first, 5))
    slow, _ = slow_relevance(model, mel[:1], first, 5)
    torch.testing.assert_close(fast.with_identity[0], slow, rtol=1e-8, atol=1e-14)
    part = encoder_relevance(model, mel[:1], target=Transcript(model, first, 5), rows=slice(4, 9))
    torch.testing.assert_close(part.values[0], fast.values[0, 4:9])
    torch.testing.assert_close(part.with_identity[0], slow[4:9], rtol=1e-8, atol=1e-14)


def test_batch_equals_single_items(model, mel, tokens) -> None:
    def single(k: int) -> Transcript:
        return Transcript(model, tokens[k : k + 1], 4)

    maps = encoder_relevance(model, mel, target=Transcript(model, tokens, 4))
    words = audio_relevance(model, mel, tokens, indices=[5, 6])
    mels = mel_relevance(model, mel, target=Transcript(model, tokens, 4))
    flow = attention_rollout(model, mel)
    for k in range(3):
        clip = mel[k : k + 1]
        alone = encoder_relevance(model, clip, target=single(k))
        torch.testing.assert_close(alone.values[0], maps.values[k], rtol=1e-7, atol=1e-13)
        torch.testing.assert_close(alone.score[0], maps.score[k])
        row = audio_relevance(model, clip, tokens[k : k + 1], indices=[5, 6])
        torch.testing.assert_close(row.values[0], words.values[k], rtol=1e-7, atol=1e-13)
        assert row.labels[0] == words.labels[k]
        torch.testing.assert_close(
            mel_relevance(model, clip, target=single(k)).values[0], mels.values[k], rtol=1e-7, atol=1e-13
        )
        torch.testing.assert_close(attention_rollout(model, clip).values[0], flow.values[k])


def test_padding_after_the_end_of_text_does_not_count(model, mel, tokens) -> None:
    eot = torch.full((3, 1), model.tokenizer.eot)
    ended = torch.cat([tokens, eot], dim=1)
    padded = torch.cat([ended, eot, eot], dim=1)
    out = model.embed_audio(mel)
    torch.testing.assert_close(Transcript(model, padded, 4)(out), Transcript(model, ended, 4)(out))


def test_the_default_is_the_models_own_transcript(model, mel) -> None:
    out = model.embed_audio(mel[:1])
    log_prob = OwnTranscript(model, max_new_tokens=3)(out)
    relevance = encoder_relevance(model, mel[:1], target=OwnTranscript(model, max_new_tokens=3), rows=[0])
    torch.testing.assert_close(relevance.score, log_prob.detach())
    assert "transcript" in relevance.target and log_prob.item() < 0


def test_rollout_rows_sum_to_one_and_follow_the_product(model, mel) -> None:
    flow = attention_rollout(model, mel[:1])
    torch.testing.assert_close(flow.values.sum(-1), torch.ones(1, 20, dtype=torch.float64))
    _, cache = model.run_with_cache(mel[:1], names_filter="encoder.blocks.*.attn.hook_pattern")
    product = torch.eye(20, dtype=torch.float64)
    for block in range(2):
        product = (cache["encoder", "pattern", block][0].mean(0) + torch.eye(20)) / 2 @ product
    torch.testing.assert_close(flow.values[0], product)


def test_gradient_times_input_is_complete_where_the_model_is_linear(model, mel, monkeypatch) -> None:
    weight = torch.randn(80, 32, generator=torch.Generator().manual_seed(2)).double()
    monkeypatch.setattr(model.encoder, "forward", lambda x: (x[..., ::2] + x[..., 1::2]).mT @ weight)
    relevance = mel_relevance(model, mel, target="encoder_sum")
    torch.testing.assert_close(relevance.values.sum((1, 2)), relevance.score)
    base = torch.full((1, 80, 40), -1.5).double()
    against = mel_relevance(model, mel, target="encoder_sum", baseline=base)
    change = relevance.score - model.embed_audio(base).sum().detach()
    torch.testing.assert_close(against.values.sum((1, 2)), change)


def test_the_published_target_has_no_gradient_with_equal_gains(model, mel) -> None:
    """With equal gains, LayerNorm outputs sum to sum(bias) for any input."""
    plain = small_model(0, n_ctx=20).double()  # gains of 1
    flat = encoder_relevance(plain, mel, target="encoder_sum")
    torch.testing.assert_close(flat.score, flat.score[:1].expand(3), rtol=0, atol=1e-9)
    proper = encoder_relevance(plain, mel, target=OwnTranscript(plain, max_new_tokens=2))
    assert flat.values.abs().max() < 1e-9 * proper.values.abs().max()
    assert "degenerate" in flat.target
    uneven = encoder_relevance(model, mel, target="encoder_sum")
    assert uneven.values.max() > 1e-6


def test_a_frozen_model_under_no_grad_gives_the_same(model, mel, tokens) -> None:
    before = audio_relevance(model, mel[:1], tokens[:1], indices=[5])
    model.requires_grad_(False)
    try:
        with torch.no_grad():
            frozen = audio_relevance(model, mel[:1], tokens[:1], indices=[5])
            maps = encoder_relevance(model, mel[:1], target=Transcript(model, tokens[:1], 4))
    finally:
        model.requires_grad_(True)
    torch.testing.assert_close(frozen.values, before.values)
    assert maps.values.max() > 0 and not maps.values.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not listeners(model)


def test_errors_name_the_argument(model, mel, tokens, unchecked) -> None:
    with pytest.raises(ValueError, match="encoder_sum"):
        encoder_relevance(model, mel, target="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one number per clip"):
        encoder_relevance(model, mel, target=lambda out: out.sum())
    with pytest.raises(ValueError, match="indices must be 1 to"):
        audio_relevance(model, mel, tokens, indices=[0])
    with pytest.raises(ValueError, match="n_prompt"):
        Transcript(model, tokens, 99)
    assert not listeners(model)


def test_zero_relevance_stays_zero_without_nan() -> None:
    zero = torch.zeros(1, 4, 4)
    assert not propagated_rows([zero, zero], [0, 3]).any()
    assert not relevance_through_cross([zero], [torch.zeros(1, 2, 2)], [torch.zeros(1, 2, 4)]).any()


def test_words_and_figures(model, mel, tokens) -> None:
    relevance = audio_relevance(model, mel[:1], model.to_tokens(" the zgx cat"), indices=[4, 5, 6, 7])
    words, values = relevance.by_word()
    assert words[0] == "the" and words[-1] == "cat" and len(words) < 4 + 1
    assert values.shape == (len(words), 20)
    assert np.isfinite(values.numpy()).all()
    for drawn in (relevance, attention_rollout(model, mel[:1]), mel_relevance(model, mel[:1], target="encoder_sum")):
        assert drawn.plot().axes[0].get_xlim() == (0.0, 0.4)
        assert drawn.plot(until=0.2).axes[0].get_xlim() == (0.0, 0.2)
