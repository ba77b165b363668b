"""Dictionaries spliced into a model: latents edited while it transcribes, and their shares in a metric."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import PatchError
from hooked_whisper.features.bases import random_orthonormal
from hooked_whisper.hooks import Hooks
from hooked_whisper.interventions import (
    Inputs,
    LogitDifference,
    WordLogProb,
    ablate,
    make_grid,
    means,
    outcome,
    outcomes,
    read_metric,
    run_patches,
)
from hooked_whisper.protocols import Interval
from sae_lens_audio.architectures import (
    AbsTopK,
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Dictionary,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    Matryoshka,
    MatryoshkaConfig,
    Normalised,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens_audio.splice import ablate_latents, clamp_latents, latent_attribution, steer_latents
from tests.findings.worlds import small_model
from tests.sae.dictionaries import filled

D, F = 32, 48
HOOK = "encoder.blocks.0.hook_resid_post"
ACTS = f"{HOOK}.hook_sae_acts_post"
MLP_IN, MLP_OUT = "decoder.blocks.1.hook_mlp_in", "decoder.blocks.1.hook_mlp_out"


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def model() -> HookedWhisper:
    """Random weights, large enough that an edit in the encoder moves the logits."""
    made = small_model(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def mels(n: int = 2) -> Tensor:
    return rand(n, 80, 120)


def tokens(n: int = 2) -> Tensor:
    return torch.randint(0, 50000, (n, 5), generator=torch.Generator().manual_seed(1))


def some(make: type[Dictionary], config: object) -> Dictionary:
    return filled(make(config), seed=3).float().requires_grad_(False)  # type: ignore[arg-type]


TOPK = some(TopK, TopKConfig(D, F, k=5))
SAES: dict[str, object] = {
    "standard": some(Standard, StandardConfig(D, F)),
    "tied": some(Tied, TiedConfig(D, F)),
    "topk": TOPK,
    "abstopk": some(AbsTopK, TopKConfig(D, F, k=5)),
    "batchtopk": some(BatchTopK, BatchTopKConfig(D, F, k=5)),
    "matryoshka": some(Matryoshka, MatryoshkaConfig(D, F, k=5, widths=(8, F))),
    "jumprelu": some(JumpReLU, JumpReLUConfig(D, F)),
    "gated": some(Gated, GatedConfig(D, F)),
    "layer norm": Normalised(some(TopK, TopKConfig(D, F, k=5)), "layer_norm"),
    "constant norm": Normalised(some(Standard, StandardConfig(D, F)), "constant_norm_rescale"),
    "linear basis": random_orthonormal(D, 20),
}
TRANSCODERS = [
    some(Transcoder, TranscoderConfig(D, F, d_out=D, skip=True)),
    some(TopKTranscoder, TopKTranscoderConfig(D, F, d_out=D, k=5)),
    some(JumpReLUTranscoder, JumpReLUTranscoderConfig(D, F, d_out=D, skip=True)),
]


def reconstructed(sae: object, x: Tensor) -> Tensor:
    return sae(x) if isinstance(sae, torch.nn.Module) else sae.decode(sae.encode(x))  # type: ignore[attr-defined]


# --- every architecture ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("sae", SAES.values(), ids=SAES)
@pytest.mark.parametrize("error_term", [False, True])
def test_every_dictionary_is_spliced(sae: object, error_term: bool) -> None:
    clean, _ = model().run_with_cache(mels(), tokens(), names=HOOK)
    with model().splice(sae, "encoder.blocks.0", error_term=error_term):
        out, cached = model().run_with_cache(mels(), tokens(), names=f"{HOOK}*")
        x = cached[f"{HOOK}.hook_sae_input"]
        assert torch.equal(cached[ACTS], sae.encode(x))  # type: ignore[attr-defined]
        torch.testing.assert_close(cached[f"{HOOK}.hook_sae_recons"], reconstructed(sae, x))
        assert torch.equal(cached[HOOK], x if error_term else reconstructed(sae, x))
        assert torch.equal(out, clean) is error_term
        assert torch.equal(model().run_with_hooks(mels(), tokens(), fwd_hooks=[("*.hook_sae_*", lambda x: None)]), out)
    assert torch.equal(model()(mels(), tokens()), clean)


@torch.no_grad()
@pytest.mark.parametrize("sae", TRANSCODERS, ids=lambda sae: sae.architecture)
def test_every_transcoder_is_spliced(sae: Transcoder) -> None:
    clean, cached = model().run_with_cache(mels(), tokens(), names=MLP_IN)
    predicted = sae(cached[MLP_IN])
    with model().splice(sae, MLP_IN, hook_out=MLP_OUT):
        out, found = model().run_with_cache(mels(), tokens(), names=[f"{MLP_IN}.*", MLP_OUT])
    assert torch.equal(found[f"{MLP_IN}.hook_sae_acts_post"], sae.encode(cached[MLP_IN]))
    assert torch.equal(found[MLP_OUT], predicted) and torch.equal(found[f"{MLP_IN}.hook_sae_recons"], predicted)
    assert torch.equal(out, model().run_with_hooks(mels(), tokens(), fwd_hooks=[(MLP_OUT, lambda x: predicted)]))
    with model().splice(sae, MLP_IN, hook_out=MLP_OUT, error_term=True):
        assert torch.equal(model()(mels(), tokens()), clean)
        edit = ablate_latents(MLP_IN, range(F))
        ablated, _ = model().run_with_cache(mels(), tokens(), names=MLP_OUT, fwd_hooks=edit)
        assert not torch.equal(ablated, clean)
    with pytest.raises(PatchError, match="hook_out="), model().splice(sae, MLP_IN):
        pass


def test_crosscoders_and_dictionaries_without_a_threshold(unchecked: None) -> None:
    crosscoder = Crosscoder(CrosscoderConfig(D, F, n_blocks=2))
    with pytest.raises(PatchError, match="takes 2 blocks in one input"), model().splice(crosscoder, HOOK):
        pass
    with pytest.raises(PatchError, match="d_in = 31"), model().splice(Standard(StandardConfig(31, F)), HOOK):
        pass
    with pytest.raises(PatchError, match="no threshold yet"), model().splice(BatchTopK(BatchTopKConfig(D, F)), HOOK):
        model()(mels(), tokens())
    assert model().hook_names("*hook_resid_post") and not model().list_hooks()


def test_a_dictionary_is_trained_through_the_model() -> None:
    sae = Standard(StandardConfig(D, F))
    with model().splice(sae, HOOK):
        model()(mels(), tokens()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sae.parameters())
    assert HOOK not in dict(sae.named_modules()) and not any("sae" in key for key in model().state_dict())
    model().zero_grad()


# --- edits of latents -----------------------------------------------------------------------------------------------


def edited(hooks: Hooks, sae: object = TOPK, n: int = 2) -> Tensor:
    """The latents after these hooks."""
    with torch.no_grad(), model().splice(sae, HOOK):  # type: ignore[arg-type]
        return model().run_with_cache(mels(n), names=ACTS, fwd_hooks=hooks, return_type=None)[1][ACTS]


EDITS: dict[str, tuple[Callable, Callable[[Tensor], Tensor]]] = {
    "ablate": (lambda **at: ablate_latents(HOOK, [3, 40], **at), lambda f: 0 * f),
    "clamp": (lambda **at: clamp_latents("encoder.blocks.0", [3, 40], 2, **at), lambda f: 0 * f + 2),
    "clamp each": (
        lambda **at: clamp_latents(ACTS, torch.tensor([3, 40]), [1.5, -2], **at),
        lambda f: 0 * f + torch.tensor([1.5, -2]),
    ),
    "add": (lambda **at: steer_latents(HOOK, [3, 40], 0.5, **at), lambda f: f + 0.5),
    "add each": (
        lambda **at: steer_latents(HOOK, (3, 40), torch.tensor([1.0, 2.0]), **at),
        lambda f: f + torch.tensor([1.0, 2.0]),
    ),
    "scale": (lambda **at: steer_latents(HOOK, [3, 40], -3, "scale", **at), lambda f: -3 * f),
}
SPANS = {
    "everywhere": ({}, slice(0, 60)),
    "positions": ({"where": (5, 9)}, slice(5, 9)),
    "seconds": ({"where": (0.1, 0.2), "unit": "seconds"}, slice(5, 11)),
    "a word": ({"where": Interval(0.1, 0.2, "w")}, slice(5, 11)),
    "nowhere": ({"where": []}, slice(0, 0)),
}


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("edit", EDITS)
def test_latents_are_edited_at_their_places(edit: str, span: str) -> None:
    (make, law), (at, rows) = EDITS[edit], SPANS[span]
    wanted = edited(()).clone()
    wanted[:, rows, [3, 40]] = law(wanted[:, rows, [3, 40]])
    assert torch.equal(edited(make(**at)), wanted)


def test_edits_are_joined_and_reach_the_activation() -> None:
    hooks = ablate_latents(HOOK, range(0, 20)) + steer_latents(HOOK, 7, 4.0, where=[2, 5])
    wanted = edited(()).clone()
    wanted[..., :20] = 0
    wanted[:, [2, 5], 7] = 4
    assert torch.equal(edited(hooks), wanted)
    with torch.no_grad(), model().splice(TOPK, HOOK, error_term=True):
        clean = model().run_with_cache(mels(), names=HOOK)[1][HOOK]
        found = model().run_with_cache(mels(), names=HOOK, fwd_hooks=hooks)[1][HOOK]
    torch.testing.assert_close(found, clean + (wanted - edited(())) @ TOPK.W_dec)


def test_tools_for_units_work_on_latents() -> None:
    with torch.no_grad(), model().splice(TOPK, HOOK):
        average = means(model(), mels(), ACTS)
        hooks = ablate(model(), ACTS, by=average, units=[3, 40], where=(0, 9))
    wanted = edited(()).clone()
    torch.testing.assert_close(average.values[ACTS], wanted.flatten(0, 1).mean(0))
    wanted[:, :9, [3, 40]] = average.values[ACTS][[3, 40]]
    torch.testing.assert_close(edited(hooks), wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: edited(ablate_latents(HOOK, [48])), "latents 0 to 47, not 48"),
        (lambda: edited(ablate_latents(HOOK, 3, where=(60, 70))), "has 60 positions, none of them"),
        (lambda: ablate_latents(HOOK, []), "at least one"),
        (lambda: ablate_latents(HOOK, [-1]), "numbers from 0"),
        (lambda: ablate_latents(HOOK, [2, 2]), "none twice"),
        (lambda: clamp_latents(HOOK, [2, 3], [1.0, 2.0, 3.0]), r"2 latents, but \[3\] values"),
        (lambda: clamp_latents(HOOK, 2, float("nan")), "finite"),
        (lambda: steer_latents(HOOK, 2, 1.0, by="times"), "'add' or 'scale'"),
        (lambda: ablate_latents(HOOK, 2, where=(1, 2), unit="tokens"), "no tokens"),
        (lambda: ablate_latents(MLP_IN, 2, where=(1, 2), unit="seconds"), "seconds are for encoder"),
        (lambda: ablate_latents(HOOK, 2, where=(5, 2)), "is no span"),
    ],
)
def test_edits_that_cannot_be(unchecked: None, make: Callable, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        make()


@torch.no_grad()
@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "resid_post"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_patches_inside_a_splice(component: str, stack: str) -> None:
    """Before the dictionary, right before it, and what comes out of it (which is final)."""
    name = f"{stack}.blocks.0.hook_{component}"
    base, source = (Inputs(tokens(1), mel=mel[None]) for mel in mels())
    if stack == "decoder":
        source = Inputs(tokens(2)[1:], mel=mels(1))
    with model().splice(TOPK, f"{stack}.blocks.0"):
        found = run_patches(model(), make_grid(model(), component, stack, blocks=[0]).patches, base, source, METRIC)  # type: ignore[arg-type]
        _, cached = model().run_with_cache(source.mel, source.tokens, names=name)
        hook = [(name, lambda x: cached[name])]
        logits = model().run_with_hooks(base.mel, base.tokens, fwd_hooks=hook)
        plain = model()(base.mel, base.tokens)
    ends = [METRIC(x[:, [3]][..., [100, 200]]) for x in (logits, plain)]
    torch.testing.assert_close(found.values.float(), ends[0], atol=1e-4, rtol=1e-3)
    assert found.base == pytest.approx(float(ends[1]), abs=1e-4) and abs(float(ends[0] - ends[1])) > 1e-3


# --- live in decoding -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("error_term", [False, True])
def test_generation_with_edits_is_greedy_over_full_passes(error_term: bool) -> None:
    hook = "decoder.blocks.0.hook_resid_post"
    encoder_out, prompt = model().embed_audio(mels()), tokens()[:, :3]
    hooks = steer_latents(hook, [3, 7], 9.0, where=(4, 7), unit="tokens") + ablate_latents(hook, [11, 12, 13])
    plain = model().generate(prompt, encoder_out, max_new_tokens=6)
    with model().splice(TOPK, hook, error_term=error_term), model().hooks(hooks):
        found = model().generate(prompt, encoder_out, max_new_tokens=6)
        whole = prompt
        for _ in range(6):
            whole = torch.cat([whole, model().logits(whole, encoder_out)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, whole) and not torch.equal(found, plain)


@pytest.mark.parametrize("options", [{}, {"beam_size": 2}], ids=["greedy", "beams"])
def test_decoding_and_outcomes_inside_a_splice(options: dict) -> None:
    hooks = steer_latents(HOOK, range(8), 5.0)
    by_hand = [(HOOK, lambda x: TOPK.decode(TOPK.encode(x) + 5 * (torch.arange(F) < 8)))]
    settings = {"language": "en", "without_timestamps": True, "sample_len": 4, **options}

    def text(hooks: Hooks = ()) -> list[str]:
        with model().hooks(hooks):
            return [one.text for one in model().decode(mels(), **settings)]

    with model().splice(TOPK, HOOK, positions=torch.ones(1, 60, dtype=torch.bool)):
        spliced, steered = text(), text(hooks)
    assert steered == text(by_hand) and spliced == text([(HOOK, TOPK)])
    assert len({tuple(t) for t in (text(), spliced, steered)}) == 3


def test_outcome_of_an_edit_inside_a_splice() -> None:
    hooks = steer_latents(HOOK, range(8), 5.0)
    with model().splice(TOPK, HOOK):
        found = outcomes(model(), mels(), fwd_hooks=hooks, max_new_tokens=4)
        one = outcome(model(), mels()[:1], fwd_hooks=hooks, max_new_tokens=4)
    wanted = outcomes(model(), mels(), fwd_hooks=[(HOOK, TOPK)], max_new_tokens=4)
    assert [o.before for o in found] == [o.after for o in wanted] and one.before == found[0].before
    assert all(o.before != o.after for o in found) and one.after == found[0].after
    assert np.isfinite(found.logprob_change) and found.logprob_change != 0
    with model().splice(TOPK, HOOK, error_term=True):  # nothing but the edit is to be seen
        assert [o.before for o in outcomes(model(), mels(), fwd_hooks=hooks, max_new_tokens=4)] == [
            o.before for o in wanted
        ]


def test_transcribing_inside_a_splice() -> None:
    whole = small_model(0, n_ctx=1500)
    audio = 0.1 * rand(16000 * 35).numpy()
    settings = {"language": "en", "temperature": 0.0, "sample_len": 3, "no_speech_threshold": None}
    windows: list[Tensor] = []
    with whole.splice(TOPK, HOOK, positions=slice(0, 700)), whole.hooks([(ACTS, lambda f: windows.append(f))]):
        inside = whole.transcribe(audio, **settings)
    assert len(windows) >= 2 and all(f.shape == (1, 1500, F) and not f[:, 700:].any() for f in windows)
    at = torch.arange(1500)[:, None] < 700
    with whole.hooks([(HOOK, lambda x: torch.where(at, TOPK(x), x))]):
        assert whole.transcribe(audio, **settings).text == inside.text


# --- attribution ----------------------------------------------------------------------------------------------------


def exact(sae: object, hook: str, metric: object, latents: Tensor, error_term: bool = True, **kw: object) -> Tensor:
    """What ablating each latent at each place takes away, one by one."""
    found = torch.zeros_like(latents)
    site = f"{hook}.hook_sae_acts_post"
    with torch.no_grad(), model().splice(sae, hook, error_term=error_term, **kw):  # type: ignore[arg-type]

        def value(hooks: Hooks = ()) -> Tensor:
            with model().hooks(hooks):
                logits = model()(mels(1), tokens(1))[:, list(metric.at)]  # type: ignore[attr-defined]
            return metric(logits if metric.vocab is None else logits[..., list(metric.vocab)])  # type: ignore

        clean = value()
        for place, latent in latents[0].nonzero().tolist():

            def silent(f: Tensor, place: int = place, latent: int = latent) -> None:
                f[:, place, latent] = 0

            found[:, place, latent] = clean - value([(site, silent)])
    return found


METRIC = LogitDifference(100, 200, 3)


@pytest.mark.parametrize("hook", ["decoder.ln_final.hook_normalized", "unembed.hook_in"])
@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("steps", [None, 3])
def test_attribution_is_exact_where_all_behind_is_linear(hook: str, error_term: bool, steps: int | None) -> None:
    found = latent_attribution(
        model(),
        TOPK,
        hook,
        mels(1),
        tokens(1),
        METRIC,
        error_term=error_term,
        steps=steps,  # type: ignore[arg-type]
    )
    wanted = exact(TOPK, hook, METRIC, found.latents, error_term)
    assert found.axes == ("batch", "token", "d_sae") and found.values.shape == (1, 5, F)
    torch.testing.assert_close(found.values, wanted, atol=1e-4, rtol=1e-3)
    assert found.values[0, 3].count_nonzero() == 5 and not found.values[:, [0, 1, 2, 4]].any()
    assert found.top(1)[0][0] == int(found.by_latent()[0].abs().argmax())
    assert found.unit == "logits" and not found.values.requires_grad


def quiet(scale: float) -> TopK:
    """A dictionary whose latents each are a small part of the activation, as first-order estimates need it."""
    sae = copy.deepcopy(TOPK)
    sae.W_dec.mul_(scale)
    return sae


@pytest.mark.parametrize("hook", [HOOK, "encoder.blocks.1.attn.hook_z", MLP_IN])
def test_attribution_ranks_latents_as_ablation_does(hook: str) -> None:
    metric, sae = WordLogProb((300, 400), 2), quiet(0.01)
    found = latent_attribution(model(), sae, hook, mels(1), tokens(1), metric, positions=slice(0, 4))
    wanted = exact(sae, hook, metric, found.latents, positions=slice(0, 4))
    at = found.latents != 0
    ours, theirs = found.values[at], wanted[at]
    assert len(ours) == 20 and spearmanr(ours, theirs).statistic > 0.8 and pearsonr(ours, theirs).statistic > 0.99
    assert not found.values[:, 4:].any()
    with torch.no_grad():
        torch.testing.assert_close(found.metric, metric(model()(mels(1), tokens(1))[:, list(metric.at)]))


def test_integrated_gradients_add_up() -> None:
    sae = quiet(0.3)
    whole = latent_attribution(model(), sae, HOOK, mels(1), tokens(1), METRIC)
    edits = ablate_latents(HOOK, range(F))
    with torch.no_grad(), model().splice(sae, HOOK, error_term=True), model().hooks(edits):
        nothing = read_metric(model(), model().decoder.hidden(tokens(1), model().embed_audio(mels(1))), METRIC)
    found = [latent_attribution(model(), sae, HOOK, mels(1), tokens(1), METRIC, steps=n) for n in (4, 60)]
    off = [abs(float(one.values.sum() - (one.metric - nothing))) for one in (whole, *found)]
    assert off[2] < 0.01 * abs(float(whole.metric - nothing)) < off[1] and off[2] < 0.01 * off[0]
    assert all(one.error is None and torch.equal(one.metric, whole.metric) for one in found)


def test_attribution_of_errors_rows_and_transcoders() -> None:
    """Latents, their bias and the error are the activation: their shares add up to gradient x activation."""
    hook = "decoder.ln_final.hook_normalized"
    found = latent_attribution(model(), TOPK, hook, mels(2), tokens(2), METRIC)
    with torch.no_grad(), model().splice(TOPK, hook):
        names = [hook, f"{hook}.hook_sae_input"]
        _, cached = model().run_with_cache(mels(2), tokens(2), names=names)
    read = cached[f"{hook}.hook_sae_input"]
    moved = torch.autograd.functional.jacobian(
        lambda x: METRIC(
            model().decoder.to_logits(model().decoder.ln_final.affine(x, x.dtype))[:, [3]][..., [100, 200]]
        ).sum(),
        read,
    )
    bias = (moved * TOPK.b_dec).sum(-1)
    torch.testing.assert_close(found.values.sum(-1) + found.error + bias, (moved * read).sum(-1), atol=1e-4, rtol=1e-3)
    alone = [latent_attribution(model(), TOPK, hook, mels(2)[[k]], tokens(2)[[k]], METRIC) for k in (0, 1)]
    torch.testing.assert_close(found.values, torch.cat([one.values for one in alone]), atol=1e-5, rtol=1e-4)
    sae = TRANSCODERS[0]
    crossing = latent_attribution(model(), sae, MLP_IN, mels(1), tokens(1), METRIC, hook_out=MLP_OUT, error_term=False)
    assert crossing.error is None and crossing.values.abs().sum() > 0
    with model().splice(sae, MLP_IN, hook_out=MLP_OUT):
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
        for kwargs, words in (({"steps": 0}, "a step at least"), ({"metric": LogitDifference(1, 2, 9)}, "reads after")):
            with pytest.raises(PatchError, match=words):
                latent_attribution(model(), TOPK, HOOK, mels(1), tokens(1), **{"metric": METRIC, **kwargs})
            with pytest.raises(PatchError, match=words):
                latent_attribution(model(), TOPK, "decoder.ln", mels(1), tokens(1), **{"metric": METRIC, **kwargs})
    assert [p.grad for p in model().parameters()] == before and not model().list_hooks()
    assert not any("hook_sae" in name for name in model().hook_names())
