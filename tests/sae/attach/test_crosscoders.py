"""A crosscoder's latents are edited, attributed and decoded with, under the names of its hook points."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.errors import ArgumentError, PatchError
from hooked_whisper.interventions import clean_transcripts, compare_transcripts
from hooked_whisper.patching import read_metric
from sae_lens_audio import Metadata, load_sae, save_sae
from sae_lens_audio.architectures import Crosscoder, CrosscoderConfig
from sae_lens_audio.latents import ablate_latents, clamp_latents, latent_attribution, steer_latents
from tests.sae.attach.attached import METRIC, D, F, filled_sae, mels, model, tokens

ENCODER = ["encoder.blocks.0", "encoder.blocks.1"]
DECODER = ["decoder.blocks.0.hook_resid_post", "decoder.blocks.1.hook_mlp_out"]
POSTS = [f"{hook}.hook_resid_post" for hook in ENCODER]
CROSSCODER = filled_sae(Crosscoder, CrosscoderConfig(D, F, n_blocks=2))


def stacked(names: list[str]) -> torch.Tensor:
    _, cache = model().run_with_cache(mels(), tokens(), names_filter=names)
    return torch.stack([cache[name] for name in names], -2)


@torch.no_grad()
def test_edits_of_latents_reach_every_hook_point() -> None:
    x = stacked(POSTS)
    f = CROSSCODER.encode(x)
    edits = {
        "ablate": (ablate_latents(ENCODER, [3, 5]), lambda g: g.index_fill(-1, torch.tensor([3, 5]), 0.0)),
        "clamp": (clamp_latents(POSTS[0], 7, 2.5, (10, 20)), None),
        "steer": (steer_latents(tuple(ENCODER), 2, 3.0, by="scale"), lambda g: g * (1 + 2 * (torch.arange(F) == 2))),
    }
    with model().attach_sae(CROSSCODER, ENCODER, use_error_term=True):
        for name, (hooks, change) in edits.items():
            _, cache = model().run_with_cache(mels(), tokens(), names_filter=POSTS, fwd_hooks=hooks)
            moved = torch.stack([cache[post] for post in POSTS], -2) - x
            if change is None:
                assert moved[:, 10:20].abs().sum() > 0 and not moved[:, 20:].any() and not moved[:, :10].any(), name
            else:
                wanted = CROSSCODER.decode(change(f)) - CROSSCODER.decode(f)
                torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(ArgumentError, match="hook is empty"):
        ablate_latents([], 3)


def test_saved_crosscoders_know_their_hook_points(tmp_path) -> None:
    save_sae(CROSSCODER, tmp_path, Metadata(hook_name=", ".join(POSTS)))
    loaded = load_sae(tmp_path)
    out = model().run_with_saes(mels(), tokens(), saes=loaded, use_error_term=False)
    assert torch.equal(out, model().run_with_saes(mels(), tokens(), saes={tuple(ENCODER): CROSSCODER}))
    assert torch.equal(out, model().run_with_saes(mels(), tokens(), saes=(POSTS, CROSSCODER)))
    assert torch.equal(
        model().run_with_saes(mels(), tokens(), saes=[loaded], use_error_term=True), model()(mels(), tokens())
    )
    _, cache = model().run_with_cache_with_saes(mels(), tokens(), saes=loaded, names_filter="*.hook_sae_acts_post")
    assert list(cache) == [f"{POSTS[0]}.hook_sae_acts_post"]


@torch.no_grad()
def test_transcripts_are_compared_from_the_block_that_the_crosscoder_needs() -> None:
    hooks = steer_latents(ENCODER, range(8), 9.0)
    by_hand = stacked(POSTS)
    change = CROSSCODER.decode(CROSSCODER.encode(by_hand) + 9 * (torch.arange(F) < 8))
    wanted = compare_transcripts(model(), mels(), fwd_hooks=[(POSTS[1], lambda x: change[..., 1, :])], max_new_tokens=4)
    with model().attach_sae(CROSSCODER, ENCODER):
        result = compare_transcripts(model(), mels(), fwd_hooks=hooks, max_new_tokens=4)
        clean = clean_transcripts(model(), mels(), max_new_tokens=4, resume_blocks=[0, 1])
        assert [c.after for c in clean.compare(fwd_hooks=hooks)] == [c.after for c in result]
        later = [(f"{POSTS[1]}.hook_sae_recons", lambda x: x + 3)]
        assert clean.compare(fwd_hooks=later)[0].before == result[0].before
    assert [c.after for c in result] == [c.after for c in wanted]


@torch.no_grad()
@pytest.mark.parametrize("use_error_term", [False, True])
def test_greedy_decoding_with_edited_latents(use_error_term: bool) -> None:
    encoded, prompt = model().embed_audio(mels()), tokens()[:, :3]
    hooks = steer_latents(DECODER, [3, 7], 9.0, positions=(4, 7), unit="tokens") + ablate_latents(DECODER, [11, 12])
    with model().attach_sae(CROSSCODER, DECODER, use_error_term=use_error_term), model().hooks(hooks):
        result = model().generate(prompt, encoded, max_new_tokens=6)
        whole = prompt
        for _ in range(6):
            whole = torch.cat([whole, model().logits(whole, encoded)[:, -1:].argmax(-1)], 1)
    assert torch.equal(result, whole)


def test_beam_search_works_in_the_encoder_and_is_refused_in_the_decoder() -> None:
    settings = {"language": "en", "without_timestamps": True, "sample_len": 5, "beam_size": 2}
    with model().attach_sae(CROSSCODER, ENCODER):
        assert len(model().decode(mels(), **settings)) == 2
    with model().attach_sae(CROSSCODER, DECODER), pytest.raises(PatchError, match="decode greedily"):
        model().decode(mels(), **{**settings, "sample_len": 12})


@pytest.mark.parametrize("hooks", [ENCODER, DECODER], ids=["encoder", "decoder"])
def test_attributions_estimate_ablations(hooks: list[str]) -> None:
    attribution = latent_attribution(model(), CROSSCODER, hooks, mels(), tokens(), METRIC)
    assert attribution.axes[-1] == "d_sae" and attribution.error is not None
    assert attribution.values.shape == (*attribution.error.shape, F)
    (latent, estimate), *_ = attribution.top(1)
    scale = 0.01
    with torch.no_grad(), model().attach_sae(CROSSCODER, hooks, use_error_term=True):
        before = read_metric(model(), model().decoder.hidden(tokens(), model().embed_audio(mels())), METRIC)
        edit = steer_latents(hooks, latent, 1 - scale, by="scale")
        with model().hooks(edit):
            after = read_metric(model(), model().decoder.hidden(tokens(), model().embed_audio(mels())), METRIC)
    assert float((before - after)[0]) / scale == pytest.approx(estimate, rel=0.1, abs=1e-3)
    integrated = latent_attribution(model(), CROSSCODER, hooks, mels(), tokens(), METRIC, steps=2)
    assert integrated.values.isfinite().all() and integrated.error is None
