"""Attribution to latents: exact if the rest is linear, ranked as by ablation."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from hooked_whisper.errors import ArgumentError, PatchError
from hooked_whisper.hooks import Hooks
from hooked_whisper.patching import LogitDifference, WordLogProb, read_metric
from sae_lens_audio.architectures import (
    TopK,
)
from sae_lens_audio.latents import ablate_latents, latent_attribution
from tests.sae.attach.attached import (
    HOOK,
    METRIC,
    MLP_IN,
    MLP_OUT,
    TOPK,
    TRANSCODERS,
    F,
    mels,
    model,
    tokens,
)

# --- attribution ----------------------------------------------------------------------------------------------------


def exact(sae: object, hook: str, metric: object, latents: Tensor, use_error_term: bool = True, **kw: object) -> Tensor:
    """The effect of ablating each latent at each position, one by one."""
    attribution = torch.zeros_like(latents)
    site = f"{hook}.hook_sae_acts_post"
    with torch.no_grad(), model().attach_sae(sae, hook, use_error_term=use_error_term, **kw):  # type: ignore[arg-type]

        def value(hooks: Hooks = ()) -> Tensor:
            with model().hooks(hooks):
                logits = model()(mels(1), tokens(1))[:, list(metric.at)]  # type: ignore[attr-defined]
            return metric(logits if metric.vocab is None else logits[..., list(metric.vocab)])  # type: ignore

        clean = value()
        for place, latent in latents[0].nonzero().tolist():

            def silent(f: Tensor, place: int = place, latent: int = latent) -> None:
                f[:, place, latent] = 0

            attribution[:, place, latent] = clean - value([(site, silent)])
    return attribution


@pytest.mark.parametrize("hook", ["decoder.ln_final.hook_normalized", "unembed.hook_in"])
@pytest.mark.parametrize("use_error_term", [False, True])
@pytest.mark.parametrize("steps", [None, 3])
def test_attribution_is_exact_if_the_rest_is_linear(hook: str, use_error_term: bool, steps: int | None) -> None:
    attribution = latent_attribution(
        model(),
        TOPK,
        hook,
        mels(1),
        tokens(1),
        METRIC,
        use_error_term=use_error_term,
        steps=steps,  # type: ignore[arg-type]
    )
    wanted = exact(TOPK, hook, METRIC, attribution.latents, use_error_term)
    assert attribution.axes == ("batch", "token", "d_sae") and attribution.values.shape == (1, 5, F)
    torch.testing.assert_close(attribution.values, wanted, atol=1e-4, rtol=1e-3)
    assert attribution.values[0, 3].count_nonzero() == 5 and not attribution.values[:, [0, 1, 2, 4]].any()
    assert attribution.top(1)[0][0] == int(attribution.by_latent()[0].abs().argmax())
    assert attribution.unit == "logits" and not attribution.values.requires_grad


def quiet(scale: float) -> TopK:
    """An SAE in which each latent is a small part of the activation, as first-order estimates require."""
    sae = copy.deepcopy(TOPK)
    sae.W_dec.mul_(scale)
    return sae


@pytest.mark.parametrize("hook", [HOOK, "encoder.blocks.1.attn.hook_z", MLP_IN])
def test_attribution_ranks_latents_as_ablation_does(hook: str) -> None:
    metric, sae = WordLogProb((300, 400), 2), quiet(0.01)
    attribution = latent_attribution(model(), sae, hook, mels(1), tokens(1), metric, positions=slice(0, 4))
    wanted = exact(sae, hook, metric, attribution.latents, positions=slice(0, 4))
    active = attribution.latents != 0
    ours, theirs = attribution.values[active], wanted[active]
    assert len(ours) == 20 and spearmanr(ours, theirs).statistic > 0.8 and pearsonr(ours, theirs).statistic > 0.99
    assert not attribution.values[:, 4:].any()
    with torch.no_grad():
        torch.testing.assert_close(attribution.metric, metric(model()(mels(1), tokens(1))[:, list(metric.at)]))


def test_integrated_gradients_add_up() -> None:
    sae = quiet(0.3)
    whole = latent_attribution(model(), sae, HOOK, mels(1), tokens(1), METRIC)
    edits = ablate_latents(HOOK, range(F))
    with torch.no_grad(), model().attach_sae(sae, HOOK, use_error_term=True), model().hooks(edits):
        nothing = read_metric(model(), model().decoder.hidden(tokens(1), model().embed_audio(mels(1))), METRIC)
    attribution = [latent_attribution(model(), sae, HOOK, mels(1), tokens(1), METRIC, steps=n) for n in (4, 60)]
    off = [abs(float(single.values.sum() - (single.metric - nothing))) for single in (whole, *attribution)]
    assert off[2] < 0.01 * abs(float(whole.metric - nothing)) < off[1] and off[2] < 0.01 * off[0]
    assert all(single.error is None and torch.equal(single.metric, whole.metric) for single in attribution)


def test_attribution_of_errors_rows_and_transcoders() -> None:
    """Latents, decoder bias and error add up to the activation, so their attributions add up to gradient times
    activation."""
    hook = "decoder.ln_final.hook_normalized"
    attribution = latent_attribution(model(), TOPK, hook, mels(2), tokens(2), METRIC)
    with torch.no_grad(), model().attach_sae(TOPK, hook):
        names = [hook, f"{hook}.hook_sae_input"]
        _, cached = model().run_with_cache(mels(2), tokens(2), names_filter=names)
    read = cached[f"{hook}.hook_sae_input"]
    moved = torch.autograd.functional.jacobian(
        lambda x: METRIC(
            model().decoder.to_logits(x * model().decoder.ln_final.weight + model().decoder.ln_final.bias)[:, [3]][
                ..., [100, 200]
            ]
        ).sum(),
        read,
    )
    bias = (moved * TOPK.b_dec).sum(-1)
    torch.testing.assert_close(
        attribution.values.sum(-1) + attribution.error + bias, (moved * read).sum(-1), atol=1e-4, rtol=1e-3
    )
    alone = [latent_attribution(model(), TOPK, hook, mels(2)[[k]], tokens(2)[[k]], METRIC) for k in (0, 1)]
    torch.testing.assert_close(attribution.values, torch.cat([single.values for single in alone]), atol=1e-5, rtol=1e-4)
    sae = TRANSCODERS[0]
    crossing = latent_attribution(
        model(), sae, MLP_IN, mels(1), tokens(1), METRIC, hook_out=MLP_OUT, use_error_term=False
    )
    assert crossing.error is None and crossing.values.abs().sum() > 0
    with model().attach_sae(sae, MLP_IN, hook_out=MLP_OUT):
        torch.testing.assert_close(
            crossing.metric, METRIC(model()(mels(1), tokens(1))[:, [3]][..., [100, 200]]).detach()
        )


def test_attribution_costs_one_pass_and_leaves_nothing(unchecked: None) -> None:
    calls: list[str] = []
    watched = [
        ("encoder.hook_out", lambda x: calls.append("encoder")),
        ("unembed.hook_in", lambda x: calls.append("decoder")),
    ]
    before = [p.grad for p in model().parameters()]
    with model().hooks(watched), torch.no_grad():
        latent_attribution(model(), TOPK, HOOK, mels(1), tokens(1), METRIC)
        assert calls == ["encoder", "decoder"]
        latent_attribution(model(), TOPK, MLP_IN, mels(1), tokens(1), METRIC, steps=3)
        assert calls == ["encoder", "decoder"] + ["encoder"] + 4 * ["decoder"]
        for kwargs, words in (({"steps": 0}, "at least 1 step"), ({"metric": LogitDifference(1, 2, 9)}, "reads after")):
            with pytest.raises((ArgumentError, PatchError), match=words):
                latent_attribution(model(), TOPK, HOOK, mels(1), tokens(1), **{"metric": METRIC, **kwargs})
            with pytest.raises((ArgumentError, PatchError), match=words):
                latent_attribution(model(), TOPK, "decoder.ln", mels(1), tokens(1), **{"metric": METRIC, **kwargs})
    assert [p.grad for p in model().parameters()] == before and not model().list_hooks()
    assert not any("hook_sae" in name for name in model().hook_names())
