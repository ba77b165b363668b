"""Steering: positions, class means, controls of matched norm, and a sweep on the demo model."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.activation_values import position_mean
from hooked_whisper.interventions.steer import (
    class_mean,
    mean_difference,
    random_control,
    steer,
    sweep_coefficients,
)
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from tests.patching.conftest import N_POSITIONS as N

torch.set_num_threads(1)
NAME = "encoder.blocks.0.hook_resid_post"
MELS = torch.randn(3, 80, 2 * N, generator=torch.Generator().manual_seed(3))
TOKENS = torch.tensor([[3, 5, 7, 11, 13]] * 3)


def cached(model: HookedWhisper, name: str, hooks=()) -> torch.Tensor:
    return model.run_with_cache(MELS, TOKENS, names_filter=name, fwd_hooks=hooks)[1][name]


def test_the_vector_is_added_only_in_the_span(model) -> None:
    v = torch.randn(16)
    difference = cached(model, NAME, steer(model, NAME, v, 2, positions=(0.1, 0.14), unit="seconds")) - cached(
        model, NAME
    )
    inside = torch.zeros(N, dtype=torch.bool)
    inside[5:8] = True
    assert torch.allclose(difference[:, inside], (2 * v).expand(3, 3, -1), atol=1e-5)
    assert (difference[:, ~inside] == 0).all()
    everywhere = cached(model, NAME, steer(model, NAME, v)) - cached(model, NAME)
    assert torch.allclose(everywhere, v.expand(3, N, -1), atol=1e-5)


def test_heads_and_live_decoding(model) -> None:
    name = "decoder.blocks.1.attn.hook_z"
    v = torch.randn(2, 8)
    v[1] = 0
    hooks = steer(model, name, v, 3.0, positions=(3, 6))
    difference = cached(model, name, hooks) - cached(model, name)
    assert (difference[:, :, 1] == 0).all() and (difference[:, :3] == 0).all() and (difference[:, 3:, 0] != 0).any()
    encoder_out = model.embed_audio(MELS).detach()
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        live = model.generate(TOKENS[:, :2], encoder_out, max_new_tokens=8)
        forced = model.logits(live, encoder_out).argmax(-1)
    assert torch.equal(live[:, 2:], forced[:, 1:-1])


def test_the_mean_difference_moves_one_class_onto_the_other(model) -> None:
    a, b = MELS[:2], MELS[2:]
    v = mean_difference(model, a, b, NAME, n_valid_a=[N, 7], n_valid_b=[9])
    moved = model.run_with_cache(b, names_filter=NAME, fwd_hooks=steer(model, NAME, v))[1][NAME][0, :9].mean(0)
    assert torch.allclose(moved, class_mean(model, a, NAME, n_valid=[N, 7]), atol=1e-5)


def test_a_vector_for_each_position(model) -> None:
    means = position_mean(model, MELS, NAME)
    assert torch.allclose(means, cached(model, NAME).mean(0), atol=1e-6)
    difference = cached(model, NAME, steer(model, NAME, means, 0.5, positions=(4, 9))) - cached(model, NAME)
    assert torch.allclose(difference[1, 4:9], 0.5 * means[4:9], atol=1e-5)
    assert (difference[:, :4] == 0).all() and (difference[:, 9:] == 0).all()


def test_controls_have_the_norm_and_another_direction() -> None:
    v = torch.randn(2, 64)
    control, same, other = random_control(v, 1), random_control(v, 1), random_control(v, 2)
    assert torch.equal(control, same) and not torch.equal(control, other)
    assert torch.allclose(control.norm(dim=-1), v.norm(dim=-1))
    assert torch.cosine_similarity(control, v, dim=-1).abs().max() < 0.5


def test_a_sweep_on_the_demo_model() -> None:
    demo = HookedWhisper.from_pretrained("demo", device="cpu")
    clips = SyntheticCorpus.default().clips()[1:3]
    with torch.no_grad():
        encoded = demo.embed_audio(demo.to_mel([c.samples for c in clips]))
    tokens = demo.to_tokens("")
    name = "decoder.blocks.2.hook_resid_post"
    v = demo.W_U[:, demo.to_single_token(" cat")]
    references = [c.alignment.text for c in clips]
    sweep = sweep_coefficients(
        demo, encoded, name, v, [0, 200.0], references=references, positions=(len(tokens[0]) - 1, 9)
    )
    rows = sweep.to_rows()
    assert rows[0]["wer"] == 0 and rows[0]["control_wer"] == 0 and rows[0]["logprob_change"] == pytest.approx(0)
    assert rows[1]["wer"] > 0.5 and "cat" in sweep.steered[1][0].after
    assert "cat" not in sweep.controls[0][1][0].after


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: steer(m, "encoder.blocks.*.hook_resid_post", torch.zeros(16)), "2 points"),
        (lambda m: steer(m, "encoder.blocks.0.attn.hook_pattern", torch.zeros(16)), "no vector"),
        (lambda m: steer(m, NAME, torch.zeros(2, 3, 16)), "needs a vector"),
        (lambda m: m.run_with_hooks(MELS, TOKENS, fwd_hooks=steer(m, NAME, torch.zeros(2, 16))), "2 positions"),
        (lambda m: steer(m, NAME, torch.zeros(16), positions=(0, 99)), "24"),
        (lambda m: m.run_with_hooks(MELS, TOKENS, fwd_hooks=steer(m, NAME, torch.zeros(5))), "16"),
    ],
)
def test_errors_explain_the_remedy(model, unchecked, build, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        build(model)
