"""Heads, neurons and full decompositions: they sum to the residual, with and without norm and projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked_whisper.errors import ArgumentError, CacheSizeError
from hooked_whisper.hooks import ActivationCache
from hooked_whisper.model import WhisperCore
from tests.core.parity import relative_l2
from tests.core.twins import Twins

STACKS = {"encoder": 2, "decoder": 3}
SUM = 2e-6


def residual(cache: ActivationCache, stack: str, layer: int, mlp_input: bool = False) -> torch.Tensor:
    if mlp_input:
        return cache[stack, "resid_mid_cross" if stack == "decoder" else "resid_mid", layer]
    return cache[stack, "resid_post", -1] if layer == STACKS[stack] else cache[stack, "resid_pre", layer]


CASES = [
    (stack, layer, mlp_input)
    for stack, n in STACKS.items()
    for layer in range(n + 1)
    for mlp_input in (False, True)
    if not (mlp_input and layer == n)
]


@pytest.mark.parametrize(("stack", "layer", "mlp_input"), CASES)
@pytest.mark.parametrize("expand_neurons", [True, False])
def test_a_full_decomposition_sums_to_the_residual(
    cache: ActivationCache, stack: Any, layer: int, mlp_input: bool, expand_neurons: bool
) -> None:
    options: dict[str, Any] = {"mlp_input": mlp_input, "expand_neurons": expand_neurons}
    parts, labels = cache.get_full_resid_decomposition(stack, layer, return_labels=True, **options)
    assert len(parts) == len(labels) == len(set(labels)) and labels[-3:] == ["embed", "pos_embed", "bias"]
    expected = residual(cache, stack, layer, mlp_input)
    assert relative_l2(parts.sum(0), expected) < SUM
    # the same through the norm that reads it, and onto directions
    normed = cache.get_full_resid_decomposition(stack, layer, apply_ln=True, **options)
    assert (
        relative_l2(normed.sum(0), cache.apply_ln_to_stack(expected[None], stack, layer=layer, mlp_input=mlp_input)[0])
        < SUM
    )
    directions = torch.randn(96, 3, generator=torch.Generator().manual_seed(0))
    for apply_ln, whole in ((False, parts), (True, normed)):
        onto = cache.get_full_resid_decomposition(
            stack, layer, apply_ln=apply_ln, project_output_onto=directions, **options
        )
        assert relative_l2(onto, whole @ directions) < 1e-5
        single = cache.get_full_resid_decomposition(
            stack, layer, apply_ln=apply_ln, project_output_onto=directions[:, 0], **options
        )
        assert relative_l2(single, onto[..., 0]) < 1e-5


@pytest.mark.parametrize("stack", STACKS)
def test_neurons_and_bias_sum_to_the_output_of_the_mlp(core: WhisperCore, cache: ActivationCache, stack: Any) -> None:
    parts, labels = cache.stack_neuron_results(stack, return_labels=True)
    n, d_mlp = STACKS[stack], 384
    assert labels[d_mlp] == "1.0" and len(labels) == n * d_mlp
    for block in range(n):
        neurons = parts[block * d_mlp : (block + 1) * d_mlp]
        written = neurons.sum(0) + getattr(core, stack).b_out[block]
        assert relative_l2(written, cache[stack, "mlp_out", block]) < SUM
        assert torch.equal(cache.get_neuron_results(stack, block).movedim(-2, 0), neurons)
    some_neurons, names = cache.stack_neuron_results(stack, neuron_slice=[5, 3], pos_slice=-1, return_labels=True)
    assert names[:3] == ["0.5", "0.3", "1.5"]
    assert torch.equal(some_neurons[0], parts[5][:, -1:]) and torch.equal(some_neurons[3], parts[d_mlp + 3][:, -1:])


@pytest.mark.parametrize(("stack", "cross"), [("encoder", False), ("decoder", False), ("decoder", True)])
def test_a_remainder_completes_the_residual(cache: ActivationCache, stack: Any, cross: bool) -> None:
    for layer in (1, None):
        heads, labels = cache.stack_head_results(stack, layer, cross=cross, incl_remainder=True, return_labels=True)
        stop = STACKS[stack] if layer is None else layer
        assert labels[-1] == "remainder" and relative_l2(heads.sum(0), residual(cache, stack, stop)) < SUM
        normed = cache.stack_head_results(
            stack, layer, cross=cross, incl_remainder=True, apply_ln=True, return_labels=False
        )
        assert relative_l2(normed, cache.apply_ln_to_stack(heads, stack, layer=layer)) < SUM
    neurons = cache.stack_neuron_results(stack, incl_remainder=True, neuron_slice=slice(0, 4))
    assert relative_l2(neurons.sum(0), residual(cache, stack, STACKS[stack])) < SUM


@pytest.mark.parametrize("stack", STACKS)
def test_the_norm_of_a_block(core: WhisperCore, cache: ActivationCache, stack: Any) -> None:
    """Normed parts and the bias sum to what the attention (or the MLP) of the block reads."""
    for layer in range(STACKS[stack]):
        block = getattr(core, stack).blocks[layer]
        for mlp_input, norm in ((False, block.ln1), (True, block.ln2)):
            parts, _ = cache.decompose_resid(stack, layer, apply_ln=True, mlp_input=mlp_input, return_labels=True)
            name = "ln2" if mlp_input else "ln1"
            expected = cache[stack, "normalized", layer, name] * norm.weight + norm.bias
            assert relative_l2(parts.sum(0) + norm.bias, expected) < SUM
            last = cache.accumulated_resid(stack, layer, apply_ln=True, mlp_input=mlp_input)[-1]
            assert relative_l2(last + norm.bias, expected) < SUM


@pytest.mark.usefixtures("unchecked")
def test_layers_count_from_the_end(cache: ActivationCache) -> None:
    for layer, same in ((-1, None), (-1, 3), (-2, 2), (-4, 0)):
        assert torch.equal(cache.accumulated_resid("decoder", layer), cache.accumulated_resid("decoder", same))
    for wrong in (4, -5, 1.0, True):
        with pytest.raises(ArgumentError, match=r"blocks 0 to 2"):
            cache.accumulated_resid("decoder", wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="mlp_input needs a block"):
        cache.get_full_resid_decomposition("decoder", mlp_input=True)


def test_embeddings_with_one_kind_of_part(cache: ActivationCache) -> None:
    parts, labels = cache.decompose_resid("decoder", mode="attn", incl_embeds=True, return_labels=True)
    assert labels == ["embed", "pos_embed", "0_attn_out", "1_attn_out", "2_attn_out"] and len(parts) == 5
    _, labels = cache.decompose_resid("decoder", incl_embeds=False, return_labels=True)
    assert labels[0] == "0_attn_out"


@pytest.mark.usefixtures("unchecked")
def test_stacked_activations(cache: ActivationCache) -> None:
    patterns = cache.stack_activation("cross", "pattern")
    assert torch.equal(patterns, torch.stack([cache["decoder", "cross_pattern", k] for k in range(3)]))
    assert cache.stack_activation("encoder", "resid_post", 1).shape == (1, 2, 60, 96)
    with pytest.raises(ArgumentError, match="takes a stack before the name"):
        cache.stack_activation("pattern")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="needs a name"):
        cache.stack_activation("encoder")


def test_too_many_neurons_are_refused(cache: ActivationCache) -> None:
    with pytest.raises(CacheSizeError, match="project_output_onto="):
        cache.stack_neuron_results("encoder", max_bytes=1000)
    with pytest.raises(CacheSizeError, match="pos_slice="):
        cache.get_full_resid_decomposition("encoder", max_bytes=1000)
    cache.stack_neuron_results("encoder", max_bytes=2**21, project_output_onto=torch.ones(96))
    with pytest.raises(ArgumentError, match=r"shape \[5\]: give \[96\], or \[96, output\]"):
        cache.stack_neuron_results("encoder", project_output_onto=torch.ones(5))


@pytest.mark.parametrize("method", ["accumulated_resid", "decompose_resid", "stack_head_results"])
def test_a_call_without_a_stack_names_both(cache: ActivationCache, method: str) -> None:
    for arguments, options in (((), {"layer": -1}), ((-1,), {"pos_slice": -1})):
        with pytest.raises(ArgumentError, match=rf"cache\.{method}\('encoder', \.\.\.\) or .*'decoder'"):
            getattr(cache, method)(*arguments, **options)


# --- without a batch axis ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", STACKS)
def test_decompositions_without_a_batch_axis(odd: Twins, stack: Any) -> None:
    _, whole = odd.core.run_with_cache(odd.mel(1), odd.tokens(5, 1))
    _, bare = odd.core.run_with_cache(odd.mel(1), odd.tokens(5, 1), remove_batch_dim=True)
    calls: list[Any] = [
        lambda c: c.accumulated_resid(stack, incl_mid=True, apply_ln=True, pos_slice=-1),
        lambda c: c.decompose_resid(stack, apply_ln=True, return_labels=False),
        lambda c: c.stack_head_results(stack, pos_slice=[0, 2], incl_remainder=True, return_labels=False),
        lambda c: c.stack_neuron_results(stack, neuron_slice=3),
        lambda c: c.get_full_resid_decomposition(stack, expand_neurons=False),
        lambda c: c.stack_activation(stack, "pattern") if stack == "decoder" else c.stack_activation(stack, "z"),
    ]
    for call in calls:
        with_batch, without = call(whole), call(bare)
        assert with_batch.shape[1] == 1 and torch.allclose(with_batch[:, 0], without, atol=1e-6)
    parts = whole.decompose_resid("decoder", return_labels=False)
    assert torch.allclose(bare.logit_attrs(parts[:, 0], 7), whole.logit_attrs(parts, 7)[:, 0], atol=1e-5)


def test_removing_the_batch_axis(odd: Twins, tmp_path: Any) -> None:
    _, cache = odd.core.run_with_cache(odd.mel(1), odd.tokens(5, 1))
    pattern, pos_embed = cache["decoder", "pattern", 0], cache["decoder.hook_pos_embed"]
    assert cache.remove_batch_dim() is cache and cache.remove_batch_dim() is cache  # in place, as in TransformerLens
    assert torch.equal(cache["decoder", "pattern", 0], pattern[0])
    assert cache["decoder.hook_pos_embed"] is pos_embed  # has no batch axis
    assert cache.axes("decoder.blocks.0.attn.hook_pattern") == ("head", "query", "key")
    assert cache.slice(token=slice(0, 2))["decoder.hook_embed"].shape == (2, 96)
    cache.save(tmp_path / "bare.safetensors")
    loaded = ActivationCache.load(tmp_path / "bare.safetensors", odd.core)
    assert not loaded.has_batch_dim and torch.equal(loaded["decoder", "pattern", 0], pattern[0])
    restored = loaded.with_batch_dim()
    assert torch.equal(restored["decoder", "pattern", 0], pattern) and not loaded.has_batch_dim
    _, two = odd.core.run_with_cache(odd.mel(2), odd.tokens(5, 2))
    with pytest.raises(ArgumentError, match=r"2 rows.*slice\(batch=0\)"):
        two.remove_batch_dim()
    with pytest.raises(ArgumentError, match="batch of one row, not 2"):
        odd.core.run_with_cache(odd.mel(2), odd.tokens(5, 2), remove_batch_dim=True)


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_tokens_in_every_shape(odd: Twins, cache: ActivationCache) -> None:
    parts, _ = cache.decompose_resid("decoder", return_labels=True)
    ids = odd.tokens(5, 2, seed=3)
    expected = cache.logit_attrs(parts, ids)
    for position in range(5):
        column = cache.logit_attrs(parts, ids[:, position])  # one per row
        assert torch.allclose(column[..., position], expected[..., position])
    row = cache.logit_attrs(parts, ids[0].tolist())  # one per position
    assert torch.allclose(row[:, 0], expected[:, 0])
    last = cache.decompose_resid("decoder", pos_slice=-1, return_labels=False)
    assert torch.allclose(cache.logit_attrs(last, ids[:, -1], pos_slice=-1), expected[..., -1:])
    with pytest.raises(ArgumentError, match="do not fit"):
        cache.logit_attrs(parts, [1, 2, 3])
    for call in (cache.logit_attrs, cache.apply_ln_to_stack):
        with pytest.raises(ArgumentError, match="unpack"):
            call(cache.decompose_resid("decoder", return_labels=True), 1 if call == cache.logit_attrs else "decoder")
    square = parts[:, :, :2]
    with pytest.raises(ArgumentError, match=r"could be one per row or one per position"):
        cache.logit_attrs(square, [1, 2], apply_ln=False)
    for wrong in (1.5, [True, False], 211, -1):
        with pytest.raises(ArgumentError, match="ids, whole numbers from 0 to 210, or texts"):
            cache.logit_attrs(parts, wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no tokenizer"):
        cache.logit_attrs(parts, " very")
