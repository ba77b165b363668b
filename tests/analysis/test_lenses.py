"""Lenses agree with the full model in the last layer, and with the truncated model in earlier layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import decoder_lens, encoder_layers, lenses, logit_lens
from hooked_whisper.errors import ArgumentError
from tests.core.twins import listeners
from tests.findings.worlds import small_model


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    model = small_model(5)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "ln_" in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def mel() -> Tensor:
    return torch.randn(3, 80, 120, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tokens(model: HookedWhisper) -> Tensor:
    return torch.cat([model.to_tokens(text) for text in (" the red cat", " a big dog", " one blue hat")])


@torch.no_grad()
def test_the_last_layer_of_the_logit_lens_is_the_model(model, mel, tokens) -> None:
    out = model.embed_audio(mel)
    lens = logit_lens(model, tokens, out)
    logits = model.logits(tokens, out)
    assert lens.layers == ("embedding", "0 self", "0 cross", "0 mlp", "1 self", "1 cross", "1 mlp")
    torch.testing.assert_close(lens.targets, logits.argmax(-1))
    torch.testing.assert_close(lens.log_prob[-1], logits.log_softmax(-1).amax(-1))
    assert (lens.rank[-1] == 0).all() and (lens.top[-1] == lens.targets).all()
    probs = logits.softmax(-1)
    torch.testing.assert_close(lens.entropy[-1], -(probs * probs.log()).sum(-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_layer_of_the_logit_lens_is_the_residual_through_norm_and_unembedding(model, mel, tokens) -> None:
    out = model.embed_audio(mel)
    wanted = tokens.roll(-1, 1)
    lens = logit_lens(model, tokens, out, targets=wanted)
    _, cache = model.run_with_cache(mel, tokens)
    components = [
        "resid_pre",
        "resid_mid",
        "resid_mid_cross",
        "resid_post",
        "resid_mid",
        "resid_mid_cross",
        "resid_post",
    ]
    for k, component in enumerate(components):
        resid = cache["decoder", component, max(0, (k - 1) // 3)]
        logits = model.decoder.ln_final(resid) @ model.W_U
        torch.testing.assert_close(
            lens.log_prob[k], logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0], rtol=1e-4, atol=1e-4
        )
        target_logit = logits.gather(-1, wanted[..., None])
        assert ((logits > target_logit).sum(-1) - lens.rank[k]).abs().max() <= 1  # rounding may swap neighbors


@torch.no_grad()
def test_the_last_layer_of_the_decoder_lens_is_the_model(model, mel, tokens) -> None:
    layers = encoder_layers(model, mel)
    out = model.embed_audio(mel)
    torch.testing.assert_close(layers[-1], out)
    assert layers.shape[0] == 3
    lens = decoder_lens(model, tokens, layers, n_prompt=4, max_new_tokens=5)
    logits = model.logits(tokens, out)
    torch.testing.assert_close(lens.log_prob[-1], logits.log_softmax(-1).amax(-1), rtol=1e-5, atol=1e-5)
    eot = model.tokenizer.eot
    alone = model.generate(
        tokens[:, :4], out, max_new_tokens=5, eot=eot, suppress=list(range(eot + 1, model.cfg.decoder.n_vocab))
    )
    assert lens.texts[-1] == tuple(
        model.tokenizer.decode([t for t in row if t < eot]).strip() for row in alone[:, 4:].tolist()
    )
    # an earlier entry is the truncated encoder
    _, cache = model.run_with_cache(mel)
    first = model.encoder.ln_post(cache["encoder", "resid_post", 0])
    torch.testing.assert_close(layers[1], first)
    early = model.logits(tokens, first).log_softmax(-1).gather(-1, lens.targets[..., None])[..., 0]
    torch.testing.assert_close(lens.log_prob[1], early, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_chunks_change_nothing_and_the_model_runs_once(model, mel, tokens, monkeypatch) -> None:
    layers = encoder_layers(model, mel)
    out = layers[-1]
    whole = [logit_lens(model, tokens, out), decoder_lens(model, tokens, layers, 4, max_new_tokens=2)]
    monkeypatch.setattr(lenses, "_LOGITS_PER_BATCH", 1)
    monkeypatch.setattr(lenses, "_ROWS", 2)
    runs = []
    with model.hooks(fwd_hooks=[("decoder.hook_embed", lambda x: runs.append(len(x)))]):
        again = logit_lens(model, tokens, out)
    assert runs == [3]
    for a, b in zip(whole, (again, decoder_lens(model, tokens, layers, 4, max_new_tokens=2)), strict=True):
        torch.testing.assert_close(a.log_prob, b.log_prob, rtol=1e-4, atol=1e-5)
        assert torch.equal(a.top[-1], b.top[-1]) and a.labels == b.labels
    assert not listeners(model)


def test_first_and_settled_layer() -> None:
    ranks = torch.tensor([[5, 0, 0, 3], [0, 1, 0, 2], [0, 0, 0, 1]])[:, None, :]
    zero = torch.zeros(3, 1, 4)
    lens = lenses.LensResult(
        "Logit lens", ("a", "b", "c"), ranks[0], (("w",) * 4,), ranks[0], zero, ranks, zero, ranks, (), ()
    )
    assert lens.first_layer.tolist() == [[1, 0, 0, 3]]
    assert lens.settled_layer.tolist() == [[1, 2, 0, 3]]


def test_figures_and_texts(model, mel, tokens) -> None:
    layers = encoder_layers(model, mel)
    lens = logit_lens(model, tokens, layers[-1])
    assert len(lens.texts) == 7 and len(lens.texts[0]) == 3
    assert lens.plot(1).axes and decoder_lens(model, tokens, layers, 4, max_new_tokens=2).plot().axes


def test_the_logit_lens_states_its_order(model, mel, tokens, unchecked: None) -> None:
    for wrong in ((mel, tokens), (tokens, mel), (model.embed_audio(mel), tokens)):
        with pytest.raises(ArgumentError, match=r"takes \(model, tokens, encoder_out\).*model.embed_audio\(mel\)"):
            logit_lens(model, *wrong)
