"""The calls of TransformerLens' main demo and of ARENA's interpretability chapter, in their order, on Whisper.

``tests/real/test_arena_walk.py`` takes the same walk on a released model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import einops
import pytest
import torch
from torch import Tensor

import hooked_whisper
from hooked_whisper import FactoredMatrix, HookedWhisper, HookPoint, utils
from hooked_whisper.errors import PromptError
from hooked_whisper.patching import (
    CleanCorruptPair,
    LogitDifference,
    RunInputs,
    get_act_patch_resid_pre,
    token_spans,
)
from sae_lens_audio import TopK, TopKConfig


@dataclass(frozen=True)
class Walk:
    """A model, and a clip with two texts of equal length that differ in one word."""

    model: HookedWhisper
    mel: Tensor
    clean: str
    corrupt: str
    answer: str
    wrong: str

    @cached_property
    def tokens(self) -> Tensor:
        return self.model.to_tokens(self.clean)

    @cached_property
    def encoded(self) -> Tensor:
        with torch.no_grad():
            return self.model.embed_audio(self.mel)

    def difference(self, logits: Tensor) -> Tensor:
        """The main demo's metric."""
        right, wrong = (self.model.to_single_token(text) for text in (self.answer, self.wrong))
        return logits[0, -1, right] - logits[0, -1, wrong]


@pytest.fixture(scope="module")
def walk() -> Walk:
    clip = Path(hooked_whisper.__file__).parent / "demo" / "clips"
    model = HookedWhisper.from_pretrained("demo")
    mel = model.to_mel(sorted(clip.glob("*.flac"))[0])
    return Walk(model, mel, " thank you very", " thank you so", " old", " bad")


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def test_load_and_list_models():
    assert "tiny.en" in utils.OFFICIAL_MODEL_NAMES and utils.get_device().type in ("cpu", "cuda")
    model = HookedWhisper.from_pretrained_no_processing("demo")
    assert model.cfg.model_name == "demo" and model.cfg.d_model == model.W_E.shape[1]


def test_loss_and_cached_patterns(walk: Walk):
    model, mel, tokens = walk.model, walk.mel, walk.tokens
    loss = model(mel, tokens, return_type="loss")
    logits, cache = model.run_with_cache(mel, tokens, remove_batch_dim=True)
    torch.testing.assert_close(model.loss_fn(logits, tokens), loss)
    pattern, labels = cache["decoder", "pattern", 0], model.to_str_tokens(tokens)
    assert pattern.shape == (model.cfg.decoder.n_heads, len(labels), len(labels))
    name = utils.get_act_name("pattern", 0, "decoder")
    _, small = model.run_with_cache(mel, tokens, remove_batch_dim=True, stop_early=True, names_filter=[name])
    assert list(small) == [name] and torch.allclose(small[name], pattern, atol=1e-5)
    first_block = [(key, tuple(x.shape)) for key, x in cache.items() if ".0." in key]
    assert first_block and len(repr(cache).splitlines()) <= 45
    assert cache.stack_activation("decoder", "pattern").shape == (model.cfg.decoder.n_layers, *pattern.shape)


def test_ablate_a_head(walk: Walk):
    model = walk.model

    def ablate(value: Tensor, hook: HookPoint) -> Tensor:
        value[:, :, 1, :] = 0.0
        return value

    original = model(tokens=walk.tokens, encoder_out=walk.encoded, return_type="loss")
    for stack in ("decoder", "cross"):
        hooks = [(utils.get_act_name("v", 0, stack), ablate)]
        ablated = model.run_with_hooks(
            tokens=walk.tokens, encoder_out=walk.encoded, return_type="loss", fwd_hooks=hooks
        )
        assert abs(float(ablated - original)) > 1e-6


def test_patch_the_residual_stream(walk: Walk):
    model, clean, corrupt = walk.model, walk.tokens, walk.model.to_tokens(walk.corrupt)
    n_layers, n_tokens = model.cfg.decoder.n_layers, clean.shape[1]
    logits, cache = model.run_with_cache(tokens=clean, encoder_out=walk.encoded)
    corrupted = walk.difference(model(tokens=corrupt, encoder_out=walk.encoded))

    def patch(resid: Tensor, hook: HookPoint, position: int) -> Tensor:
        resid[:, position] = cache[hook.name][:, position]
        return resid

    by_hand = torch.zeros(n_layers, n_tokens)
    for layer in range(n_layers):
        for position in range(n_tokens):
            hooks = [(utils.get_act_name("resid_pre", layer, "decoder"), partial(patch, position=position))]
            patched = model.run_with_hooks(tokens=corrupt, encoder_out=walk.encoded, fwd_hooks=hooks)
            gap = walk.difference(logits) - corrupted
            by_hand[layer, position] = (walk.difference(patched) - corrupted) / gap
    right, wrong = (model.to_single_token(text) for text in (walk.answer, walk.wrong))
    metric = LogitDifference(right, wrong, index=n_tokens - 1)
    pair = CleanCorruptPair(
        RunInputs(clean, encoder_out=walk.encoded), RunInputs(corrupt, encoder_out=walk.encoded), metric
    )
    spans = token_spans(model.to_str_tokens(clean[0]))
    result = get_act_patch_resid_pre(model, [pair], "decoder", token_spans=spans)
    assert result.mean.shape == by_hand.shape
    torch.testing.assert_close(torch.as_tensor(result.mean).float(), by_hand, rtol=1e-3, atol=1e-3)


def test_repeated_tokens_and_scores_of_heads(walk: Walk):
    model, n = walk.model, 10
    words = torch.randint(1000, 10000, (2, n), generator=torch.Generator().manual_seed(0))
    start = walk.tokens[:, :1].expand(2, -1)
    repeated = torch.cat([start, einops.repeat(words, "batch n -> batch (2 n)")], dim=1)
    logits = model(tokens=repeated, encoder_out=walk.encoded)
    by_position = einops.reduce(model.loss_fn(logits, repeated, per_token=True), "batch token -> token", "mean")
    assert by_position.shape == (2 * n,)
    scores = torch.zeros(model.cfg.decoder.n_layers, model.cfg.decoder.n_heads)

    def induction(pattern: Tensor, hook: HookPoint) -> None:
        stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - n)
        scores[hook.layer()] = einops.reduce(stripe, "batch head token -> head", "mean")

    model.run_with_hooks(
        tokens=repeated,
        encoder_out=walk.encoded,
        return_type=None,
        fwd_hooks=[(lambda name: name.startswith("decoder") and name.endswith(".attn.hook_pattern"), induction)],
    )
    assert (scores > 0).all() and (scores <= 1).all()


def test_tokens(walk: Walk):
    model = walk.model
    bias, ids = model.b_U.sort(descending=True)
    assert len(bias) == model.cfg.d_vocab and isinstance(model.to_string(ids[:1]), str)
    text = walk.clean
    labels = model.to_str_tokens(text)
    assert model.to_str_tokens(text, prompt=True)[-len(labels) :] == labels
    assert model.to_str_tokens([text, text]) == [labels, labels]
    assert model.to_single_str_token(model.to_single_token(labels[0])) == labels[0]
    n_prompt = walk.tokens.shape[1] - len(labels)
    assert model.get_token_position(labels[-1], text) == n_prompt + len(labels) - 1
    assert model.get_token_position(labels[-1], text, prompt=False) == len(labels) - 1
    assert model.get_token_position(labels[0], text + text, mode="first") == n_prompt
    assert model.get_token_position(labels[0], text + text, mode="last") == n_prompt + len(labels)
    assert model.get_token_position(int(walk.tokens[0, 0]), walk.tokens) == 0
    with pytest.raises(PromptError, match="is not among the tokens"):
        model.get_token_position(" xylophone" if len(model.to_str_tokens(" xylophone")) == 1 else " zoo", text)


def test_factored_matrices(walk: Walk):
    model = walk.model
    product = FactoredMatrix(torch.randn(5, 2), torch.randn(2, 5)) @ torch.randn(5, 300)
    assert (product.ldim, product.mdim, product.rdim, product.ndim) == (5, 2, 300, 2)
    for weights, cfg in (
        (model.encoder, model.cfg.encoder),
        (model.decoder, model.cfg.decoder),
        (model.decoder.cross, model.cfg.decoder),
    ):
        eigenvalues = weights.OV.eigenvalues
        score = eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)
        assert score.shape == (cfg.n_layers, cfg.n_heads) and (score.abs() <= 1).all()
    full = model.W_E @ model.decoder.OV[-1, 0] @ model.W_U
    assert full.shape == (model.cfg.d_vocab, model.cfg.d_vocab)
    assert full.eigenvalues.shape == (model.cfg.decoder.d_head,)


def test_attribute_a_logit(walk: Walk):
    """ARENA's indirect object identification: logit lens, components, heads."""
    model = walk.model
    logits, cache = model.run_with_cache(tokens=walk.tokens, encoder_out=walk.encoded)
    direction = model.tokens_to_residual_directions(walk.answer) - model.tokens_to_residual_directions(walk.wrong)
    resid, labels = cache.accumulated_resid("decoder", layer=-1, incl_mid=True, pos_slice=-1, return_labels=True)
    lens = cache.apply_ln_to_stack(resid, "decoder", layer=-1, pos_slice=-1)[:, 0, 0] @ direction
    constant = model.decoder.ln_final.bias @ direction
    expected = walk.difference(logits)
    torch.testing.assert_close(lens[-1] + constant, expected, rtol=1e-3, atol=1e-3)
    assert labels[-1] == "final_post"
    parts, labels = cache.decompose_resid("decoder", layer=-1, pos_slice=-1, return_labels=True)
    attrs = cache.logit_attrs(parts, walk.answer, walk.wrong, pos_slice=-1)[:, 0, 0]
    torch.testing.assert_close(attrs.sum() + constant, expected, rtol=1e-3, atol=1e-3)
    everything, labels = cache.get_full_resid_decomposition(
        "decoder", pos_slice=-1, apply_ln=True, project_output_onto=direction, return_labels=True
    )
    torch.testing.assert_close(everything.sum() + constant, expected, rtol=1e-3, atol=1e-3)
    cfg = model.cfg.decoder
    assert len(labels) == 2 * cfg.n_layers * cfg.n_heads + cfg.n_layers * cfg.d_mlp + 3
    heads, names = cache.stack_head_results("decoder", layer=-1, pos_slice=-1, cross=True, return_labels=True)
    assert names == list(model.head_labels("cross")) and len(heads) == len(names)
    tested = utils.test_prompt(walk.clean, walk.answer, model, walk.mel)
    assert tested.answer[0].logit == pytest.approx(float(logits[0, -1, model.to_single_token(walk.answer)]), abs=1e-2)


def test_composition_of_heads(walk: Walk):
    model = walk.model
    scores = model.all_composition_scores("K", "decoder")
    n_layers, n_heads = model.cfg.decoder.n_layers, model.cfg.decoder.n_heads
    assert scores.shape == (n_layers, n_heads, n_layers, n_heads)
    assert float(scores[-1].sum()) == 0 and len(model.all_head_labels()) == 3 * n_layers * n_heads


def test_hooks_that_stay(walk: Walk):
    model, name = walk.model, utils.get_act_name("resid_post", 0, "decoder")
    run = partial(model, tokens=walk.tokens, encoder_out=walk.encoded)
    plain = run()
    model.add_hook(name, lambda resid: 0.5 * resid)
    assert not torch.equal(run(), plain)
    model.reset_hooks()
    assert torch.equal(run(), plain)
    model.add_perma_hook(name, lambda resid: 0.5 * resid)
    model.reset_hooks()
    assert not torch.equal(run(), plain)
    model.reset_hooks(including_permanent=True)
    assert torch.equal(run(), plain) and model.list_hooks() == {}
    (handle,) = [model.decoder.blocks[0].attn.hook_z.add_hook(lambda z: 0 * z)]  # type: ignore[union-attr, operator]
    assert not torch.equal(run(), plain)
    handle.remove()


def test_saes(walk: Walk):
    """ARENA's chapter on sparse autoencoders."""
    model, hook = walk.model, "decoder.blocks.1.hook_resid_post"
    sae = TopK(TopKConfig(d_in=model.cfg.d_model, d_sae=64, k=4), seed=0)
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (model.cfg.d_model, 64)
    inputs = {"tokens": walk.tokens, "encoder_out": walk.encoded}
    plain = model(**inputs)
    logits, cache = model.run_with_cache_with_saes(
        **inputs, saes=[(hook, sae)], use_error_term=True, names_filter="*.hook_sae_*"
    )
    latents = cache[f"{hook}.hook_sae_acts_post"]
    assert torch.equal(logits, plain) and latents.shape == (1, walk.tokens.shape[1], 64)
    assert not torch.equal(model.run_with_saes(**inputs, saes={hook: sae}), plain)
    active = int(latents[0, -1].argmax())

    def ablate(acts: Tensor, hook: HookPoint) -> Tensor:
        acts[..., active] = 0
        return acts

    with model.saes({hook: sae}, use_error_term=True):
        edited = model.run_with_hooks(**inputs, fwd_hooks=[(f"{hook}.hook_sae_acts_post", ablate)])
    assert not torch.equal(edited, plain)
