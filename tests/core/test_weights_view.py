"""Weights under TransformerLens' names: multiplied from the right they make the cached activations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from hooked_whisper.hooks import ActivationCache
from hooked_whisper.model import WhisperCore
from hooked_whisper.model.weights_view import AttentionWeights
from tests.core.parity import relative_l2
from tests.core.twins import Twins

EXACT = 1e-6
N_LAYERS = {"encoder": 2, "decoder": 3, "cross": 3}
attentions = pytest.mark.parametrize("kind", N_LAYERS)
stacks = pytest.mark.parametrize("stack", ["encoder", "decoder"])


def weights_of(core: WhisperCore, kind: str) -> AttentionWeights:
    return core.decoder.cross if kind == "cross" else getattr(core, kind)


def get(cache: ActivationCache, kind: str, what: str, layer: int) -> Tensor:
    return cache["decoder", f"cross_{what}", layer] if kind == "cross" else cache[kind, what, layer]


def inputs(core: WhisperCore, cache: ActivationCache, kind: str, layer: int) -> tuple[Tensor, Tensor]:
    """What queries, and what keys and values are made from: the normed residual, or the encoder output."""
    stack = "encoder" if kind == "encoder" else "decoder"
    which = "ln_cross" if kind == "cross" else "ln1"
    norm = getattr(getattr(core, stack).blocks[layer], which)
    x = cache[stack, "normalized", layer, which] * norm.weight + norm.bias
    return x, cache["encoder.hook_out"] if kind == "cross" else x


@attentions
def test_shapes(core: WhisperCore, kind: str) -> None:
    n, weights = N_LAYERS[kind], weights_of(core, kind)
    for name in ("W_Q", "W_K", "W_V"):
        assert getattr(weights, name).shape == (n, 3, 96, 32)
    for name in ("b_Q", "b_K", "b_V"):
        assert getattr(weights, name).shape == (n, 3, 32)
    assert weights.W_O.shape == (n, 3, 32, 96) and weights.b_O.shape == (n, 96)
    assert weights.QK.shape == weights.OV.shape == (n, 3, 96, 96)
    assert not weights.b_K.any() and weights.b_Q.any()


@attentions
def test_queries_keys_and_values(core: WhisperCore, cache: ActivationCache, kind: str) -> None:
    weights = weights_of(core, kind)
    for layer in range(N_LAYERS[kind]):
        x, source = inputs(core, cache, kind, layer)
        for what, made_from in (("q", x), ("k", source), ("v", source)):
            w, b = (getattr(weights, f"{letter}_{what.upper()}")[layer] for letter in "Wb")
            ours = einsum(made_from, w, "b p d, h d e -> b p h e") + b
            assert relative_l2(ours, get(cache, kind, what, layer)) < EXACT, what


@attentions
def test_scores_pattern_and_z(core: WhisperCore, cache: ActivationCache, kind: str) -> None:
    for layer in range(N_LAYERS[kind]):
        q, k, v = (get(cache, kind, what, layer) for what in "qkv")
        scores = einsum(q, k, "b q h e, b k h e -> b h q k") / 32**0.5
        seen = get(cache, kind, "attn_scores", layer)
        allowed = seen > -torch.inf
        assert relative_l2(scores[allowed], seen[allowed]) < EXACT
        assert allowed.all() if kind != "decoder" else torch.equal(allowed, torch.ones_like(allowed).tril())
        pattern = get(cache, kind, "pattern", layer)
        assert relative_l2(pattern, seen.softmax(-1)) < EXACT
        z = einsum(pattern, v, "b h q k, b k h e -> b q h e")
        assert relative_l2(z, get(cache, kind, "z", layer)) < EXACT


@attentions
def test_results_and_attention_output(core: WhisperCore, cache: ActivationCache, kind: str) -> None:
    weights = weights_of(core, kind)
    for layer in range(N_LAYERS[kind]):
        result = einsum(get(cache, kind, "z", layer), weights.W_O[layer], "b q h e, h e d -> b q h d")
        assert relative_l2(result, get(cache, kind, "result", layer)) < EXACT
        out = cache["decoder" if kind == "cross" else kind, "cross_attn_out" if kind == "cross" else "attn_out", layer]
        assert relative_l2(result.sum(2) + weights.b_O[layer], out) < EXACT


@attentions
def test_qk_and_ov_circuits(core: WhisperCore, cache: ActivationCache, kind: str) -> None:
    weights = weights_of(core, kind)
    for layer in range(N_LAYERS[kind]):
        x, source = inputs(core, cache, kind, layer)
        # scores = (x W_Q + b_Q) (s W_K)^T / sqrt(d_head): the circuit, and what the query bias adds per key
        circuit = einsum(x, weights.QK[layer].AB, source, "b q d, h d c, b k c -> b h q k")
        bias = einsum(weights.b_Q[layer], source, weights.W_K[layer], "h e, b k d, h d e -> b h k")[:, :, None]
        seen = get(cache, kind, "attn_scores", layer)
        allowed = seen > -torch.inf
        assert relative_l2(((circuit + bias) / 32**0.5)[allowed], seen[allowed]) < EXACT
        # results = pattern (s W_V + b_V) W_O
        moved = einsum(
            get(cache, kind, "pattern", layer), source, weights.OV[layer].AB, "b h q k, b k d, h d c -> b q h c"
        )
        bias = einsum(weights.b_V[layer], weights.W_O[layer], "h e, h e d -> h d")
        assert relative_l2(moved + bias, get(cache, kind, "result", layer)) < EXACT


@stacks
def test_mlp(core: WhisperCore, cache: ActivationCache, stack: str) -> None:
    weights = getattr(core, stack)
    n = N_LAYERS[stack]
    assert weights.W_in.shape == (n, 96, 384) and weights.W_out.shape == (n, 384, 96)
    assert weights.b_in.shape == (n, 384) and weights.b_out.shape == (n, 96)
    for layer in range(n):
        norm = weights.blocks[layer].ln2
        x = cache[stack, "normalized", layer, "ln2"] * norm.weight + norm.bias
        pre = x @ weights.W_in[layer] + weights.b_in[layer]
        assert relative_l2(pre, cache[stack, "pre", layer]) < EXACT
        out = F.gelu(pre) @ weights.W_out[layer] + weights.b_out[layer]
        assert relative_l2(out, cache[stack, "mlp_out", layer]) < EXACT


def test_embedding_and_unembedding(odd: Twins, core: WhisperCore, cache: ActivationCache) -> None:
    assert core.W_E.shape == (211, 96) and core.W_U.shape == (96, 211)
    assert torch.equal(core.W_E[odd.tokens(5, 2)], cache["decoder.hook_embed"])
    assert relative_l2(cache["unembed.hook_in"] @ core.W_U, cache["unembed.hook_out"]) < EXACT


@stacks
def test_norms(core: WhisperCore, cache: ActivationCache, stack: str) -> None:
    """normalized = centered / scale, with the scale that is cached."""
    for layer in range(N_LAYERS[stack]):
        for norm, resid in (("ln1", "resid_pre"), ("ln2", "mlp_in")):
            x = cache[stack, resid, layer]
            normalized = (x - x.mean(-1, keepdim=True)) / cache[stack, "scale", layer, norm]
            assert relative_l2(normalized, cache[stack, "normalized", layer, norm]) < EXACT


def test_an_untied_unembedding_with_bias_is_what_the_logits_use(odd: Twins) -> None:
    """As weight processing makes it: the embedding stays what it was."""
    core = copy.deepcopy(odd.core)
    unembed = core.decoder.unembed
    unembed.weight = torch.nn.Parameter(core.W_E.detach() * 2)
    unembed.bias = torch.nn.Parameter(torch.arange(211.0))
    assert torch.equal(core.W_U, 2 * odd.core.W_U) and torch.equal(core.W_E, odd.core.W_E)
    wanted = 2 * odd.core(odd.mel(), odd.tokens(3)) + torch.arange(211.0)
    assert relative_l2(core(odd.mel(), odd.tokens(3)), wanted) < EXACT


def test_gradients_reach_the_weights_through_their_views(core: WhisperCore) -> None:
    key = core.decoder.blocks[1].cross_attn.key.weight
    (grad,) = torch.autograd.grad(core.decoder.cross.W_K[1].square().sum(), key)
    assert torch.allclose(grad, 2 * key)


def test_head_labels(core: WhisperCore, unchecked: None) -> None:
    assert core.head_labels() == ["E0.0", "E0.1", "E0.2", "E1.0", "E1.1", "E1.2"]
    assert core.head_labels("decoder")[-1] == "D2.2" and core.head_labels("cross")[3] == "X1.0"
    with pytest.raises(ValueError, match="'encoder', 'decoder' or 'cross'"):
        core.head_labels("both")


def test_weights_of_a_block_are_views_in_the_shapes_of_transformer_lens(core: WhisperCore) -> None:
    names = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
    for stack in (core.encoder, core.decoder):
        for layer, block in enumerate(stack.blocks):
            assert all(torch.equal(getattr(block.attn, name), getattr(stack, name)[layer]) for name in names)
            assert block.attn.W_Q.data_ptr() == block.attn.query.weight.data_ptr()
            for name in ("W_in", "b_in", "W_out", "b_out"):
                assert torch.equal(getattr(block.mlp, name), getattr(stack, name)[layer])
    cross = core.decoder.blocks[0].cross_attn
    assert all(torch.equal(getattr(cross, name), getattr(core.decoder.cross, name)[0]) for name in names)
    assert core.W_pos is core.decoder.positional_embedding and core.encoder.W_pos is core.encoder.positional_embedding
    assert core.b_U.shape == (core.cfg.decoder.n_vocab,) and not core.b_U.any()
