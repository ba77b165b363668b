"""Ablations: values, positions, live decoding, and a sweep that equals single runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import ablate, ablate_heads, ablate_neurons, means, samples, sweep_heads
from hooked_whisper.patching import CleanCorruptPair, read_metric, subspaces_of
from tests.patching.conftest import N_POSITIONS as N

MELS = torch.randn(3, 80, 2 * N, generator=torch.Generator().manual_seed(3))
TOKENS = torch.tensor([[3, 5, 7, 11, 13], [2, 4, 6, 8, 10], [1, 1, 2, 3, 5]])
Z = "encoder.blocks.1.attn.hook_z"
DECODER = "decoder.blocks.0.mlp.hook_post"


def cached(model: HookedWhisper, name: str, hooks=()) -> Tensor:
    return model.run_with_cache(MELS, TOKENS, names_filter=name, fwd_hooks=hooks)[1][name]


def test_only_the_ablated_heads_are_zero(model) -> None:
    before, after = cached(model, Z), cached(model, Z, ablate_heads(model, [(1, 0)], positions=[2, (5, 8)]))
    assert (after[:, [2, 5, 6, 7], 0] == 0).all()
    assert torch.equal(after[:, :, 1], before[:, :, 1])
    assert torch.equal(after[:, [0, 1, 3, 4, *range(8, N)]], before[:, [0, 1, 3, 4, *range(8, N)]])


def test_means_are_over_valid_positions_of_all_clips(model) -> None:
    z = cached(model, Z)
    valid = torch.cat([z[0, :4], z[1, :N], z[2, :1]])
    values = means(model, MELS, Z, n_valid=[4, N, 1])
    assert torch.allclose(values.values[Z], valid.mean(0), atol=1e-6) and values.n_positions[Z] == N + 5
    after = cached(model, Z, ablate(model, Z, by=values, heads=[1]))
    assert torch.allclose(after[:, :, 1], valid.mean(0)[1].expand(3, N, -1), atol=1e-6)


def test_valid_positions_are_read_off_the_mel(model) -> None:
    padded = MELS.clone()
    padded[:, :, 10:] = -1.5
    averages = means(model, padded, "encoder.hook_out")
    encoded = model.embed_audio(padded)
    assert torch.allclose(averages.values["encoder.hook_out"], encoded[:, :5].mean((0, 1)), atol=1e-6)


def test_resamples_are_activations_of_the_clips(model) -> None:
    bank = samples(model, MELS[:1], Z, seed=4)
    after = cached(model, Z, ablate(model, Z, by=bank))
    assert (torch.cdist(after[1].flatten(1), bank.values[Z].flatten(1)).amin(1) < 1e-4).all()
    assert torch.equal(after[0], after[1])
    other = ablate(model, Z, by=samples(model, MELS[:1], Z, seed=5))
    assert not torch.equal(cached(model, Z, other), after)


@pytest.mark.parametrize("by", ["zero", "mean", "sample"])
def test_live_decoding_is_ablated_like_one_pass(model, by: str) -> None:
    names = [DECODER, "decoder.blocks.1.cross_attn.hook_v"]
    values = {
        "zero": "zero",
        "mean": means(model, MELS, names, tokens=TOKENS),
        "sample": samples(model, MELS, names, tokens=TOKENS),
    }[by]
    hooks = ablate(model, DECODER, by=values, units=range(20), positions=(3, 9)) + ablate(
        model, names[1], by=values, positions=(4, 12)
    )
    encoder_out = model.embed_audio(MELS).detach()
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        live = model.generate(TOKENS[:, :2], encoder_out, max_new_tokens=8)
        forced = model.logits(live, encoder_out).argmax(-1)
    assert torch.equal(live[:, 2:], forced[:, 1:-1])


def test_only_the_direction_is_removed(model) -> None:
    name = "encoder.blocks.0.hook_resid_post"
    direction = torch.randn(16)
    unit_vector = direction / direction.norm()
    before, after = cached(model, name), cached(model, name, ablate(model, name, directions=direction))
    assert (after @ unit_vector).abs().max() < 1e-5
    assert torch.allclose(before - after, (before @ unit_vector)[..., None] * unit_vector, atol=1e-5)
    spaces = subspaces_of(torch.eye(16)[:2])
    by_mean = cached(model, name, ablate(model, name, by=means(model, MELS, name), directions=spaces))
    assert by_mean[..., :2].std(dim=(0, 1)).max() < 1e-5 and torch.allclose(by_mean[..., 2:], before[..., 2:])


class Squares:
    """A basis with a decoder: the first four coordinates, scaled."""

    n_features = 4
    labels = ("a", "b", "c", "d")

    def encode(self, activations: Tensor) -> Tensor:
        return 2 * activations[..., :4]

    def decode(self, features: Tensor) -> Tensor:
        return torch.nn.functional.pad(features / 2, (0, 12))


def test_features_of_a_basis(model) -> None:
    name = "encoder.blocks.0.hook_resid_post"
    before = cached(model, name)
    after = cached(
        model, name, ablate(model, name, directions=subspaces_of(Squares(), numbers=[1, 3]), positions=(3, 9))
    )
    assert after[:, 3:9, [1, 3]].abs().max() < 1e-6
    assert torch.allclose(after[:, 3:9, [0, 2, *range(4, 16)]], before[:, 3:9, [0, 2, *range(4, 16)]], atol=1e-6)
    assert torch.equal(after[:, 9:], before[:, 9:])


def test_neurons(model) -> None:
    after = cached(model, DECODER, ablate_neurons(model, [(0, 3), (0, 7)], stack="decoder"))
    assert (after[..., [3, 7]] == 0).all() and (after[..., 4] != 0).all()


def test_frames_follow_positions(model) -> None:
    name = "encoder.conv1.hook_post"
    after = cached(model, name, ablate(model, name, positions=(2, 4)))
    assert (after[:, 4:8] == 0).all() and (after[:, :4] != 0).any() and (after[:, 8:] != 0).any()


@pytest.mark.parametrize("stack", ["encoder", "decoder", "cross"])
def test_the_sweep_is_the_single_runs(model, pair: CleanCorruptPair, stack: str) -> None:
    by = "zero"
    if stack == "encoder":
        by = means(model, MELS, "encoder.blocks.*.attn.hook_z")
    sweep = sweep_heads(model, pair.clean, pair.metric, stack=stack, by=by)
    for row in sweep.to_rows():
        hooks = ablate_heads(model, [(row["block"], row["head"])], stack=stack, by=by)
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            hidden = model.decoder.hidden(pair.clean.tokens, model.embed_audio(pair.clean.mel))
            assert row["value"] == pytest.approx(float(read_metric(model, hidden, pair.metric)), abs=1e-4)
    assert sweep.effect.abs().min() > 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: ablate(m, Z, heads=[2]), "0 to 1"),
        (lambda m: ablate(m, "encoder.hook_out", heads=[0]), "no heads"),
        (lambda m: ablate(m, Z, by="mean"), "means"),
        (lambda m: ablate(m, Z, by=means(m, MELS, "encoder.hook_out")), "encoder.hook_out"),
        (lambda m: ablate(m, Z, positions=(3, 99)), "24"),
        (lambda m: ablate(m, DECODER, positions=(0.0, 0.2), unit="seconds"), "tokens"),
        (lambda m: means(m, MELS, Z, n_valid=[3]), "3 clips"),
        (lambda m: means(m, torch.zeros(1, 80, 2 * N), Z), "padding"),
        (lambda m: means(m, MELS, "encoder.blocks.0.attn.hook_pattern"), "no position"),
    ],
)
def test_errors_explain_the_remedy(model, unchecked, build, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        build(model)
