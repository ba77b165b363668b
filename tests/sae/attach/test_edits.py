"""Latents edited at selected positions, also by the tools for units and patches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import ArgumentError, PatchError, ShapeError
from hooked_whisper.hooks import Hooks
from hooked_whisper.interventions import ablate, means
from hooked_whisper.patching import RunInputs, make_grid, run_patches
from hooked_whisper.protocols import Interval
from sae_lens_audio.latents import ablate_latents, clamp_latents, steer_latents
from tests.sae.attach.attached import (
    ACTS,
    HOOK,
    METRIC,
    MLP_IN,
    TOPK,
    mels,
    model,
    tokens,
)

# --- edits of latents -----------------------------------------------------------------------------------------------


def edited(hooks: Hooks, sae: object = TOPK, n: int = 2) -> Tensor:
    """The latents after these hooks."""
    with torch.no_grad(), model().attach_sae(sae, HOOK):  # type: ignore[arg-type]
        return model().run_with_cache(mels(n), names_filter=ACTS, fwd_hooks=hooks, stop_early=True)[1][ACTS]


EDITS: dict[str, tuple[Callable, Callable[[Tensor], Tensor]]] = {
    "ablate": (lambda **where: ablate_latents(HOOK, [3, 40], **where), lambda f: 0 * f),
    "clamp": (lambda **where: clamp_latents("encoder.blocks.0", [3, 40], 2, **where), lambda f: 0 * f + 2),
    "clamp each": (
        lambda **where: clamp_latents(ACTS, torch.tensor([3, 40]), [1.5, -2], **where),
        lambda f: 0 * f + torch.tensor([1.5, -2]),
    ),
    "add": (lambda **where: steer_latents(HOOK, [3, 40], 0.5, **where), lambda f: f + 0.5),
    "add each": (
        lambda **where: steer_latents(HOOK, (3, 40), torch.tensor([1.0, 2.0]), **where),
        lambda f: f + torch.tensor([1.0, 2.0]),
    ),
    "scale": (lambda **where: steer_latents(HOOK, [3, 40], -3, "scale", **where), lambda f: -3 * f),
}
SPANS = {
    "everywhere": ({}, slice(0, 60)),
    "positions": ({"positions": (5, 9)}, slice(5, 9)),
    "seconds": ({"positions": (0.1, 0.2), "unit": "seconds"}, slice(5, 11)),
    "a word": ({"positions": Interval(0.1, 0.2, "w")}, slice(5, 11)),
    "nowhere": ({"positions": []}, slice(0, 0)),
}


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("edit", EDITS)
def test_latents_are_edited_at_the_selected_positions(edit: str, span: str) -> None:
    (make, law), (positions, rows) = EDITS[edit], SPANS[span]
    wanted = edited(()).clone()
    wanted[:, rows, [3, 40]] = law(wanted[:, rows, [3, 40]])
    assert torch.equal(edited(make(**positions)), wanted)


def test_edits_are_joined_and_reach_the_activation() -> None:
    hooks = ablate_latents(HOOK, range(0, 20)) + steer_latents(HOOK, 7, 4.0, positions=[2, 5])
    wanted = edited(()).clone()
    wanted[..., :20] = 0
    wanted[:, [2, 5], 7] = 4
    assert torch.equal(edited(hooks), wanted)
    with torch.no_grad(), model().attach_sae(TOPK, HOOK, use_error_term=True):
        clean = model().run_with_cache(mels(), names_filter=HOOK)[1][HOOK]
        activations = model().run_with_cache(mels(), names_filter=HOOK, fwd_hooks=hooks)[1][HOOK]
    torch.testing.assert_close(activations, clean + (wanted - edited(())) @ TOPK.W_dec)


def test_tools_for_units_work_on_latents() -> None:
    with torch.no_grad(), model().attach_sae(TOPK, HOOK):
        average = means(model(), mels(), ACTS)
        hooks = ablate(model(), ACTS, by=average, units=[3, 40], positions=(0, 9))
    wanted = edited(()).clone()
    torch.testing.assert_close(average.values[ACTS], wanted.flatten(0, 1).mean(0))
    wanted[:, :9, [3, 40]] = average.values[ACTS][[3, 40]]
    torch.testing.assert_close(edited(hooks), wanted)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: edited(ablate_latents(HOOK, [48])), "latents 0 to 47, not 48"),
        (lambda: edited(ablate_latents(HOOK, 3, positions=(60, 70))), "has 60 positions, none of them"),
        (lambda: ablate_latents(HOOK, []), "at least one"),
        (lambda: ablate_latents(HOOK, [-1]), "numbers from 0"),
        (lambda: ablate_latents(HOOK, [2, 2]), "distinct"),
        (lambda: clamp_latents(HOOK, [2, 3], [1.0, 2.0, 3.0]), r"2 latents, but \[3\] values"),
        (lambda: clamp_latents(HOOK, 2, float("nan")), "finite"),
        (lambda: steer_latents(HOOK, 2, 1.0, by="times"), "'add' or 'scale'"),
        (lambda: ablate_latents(HOOK, 2, positions=(1, 2), unit="tokens"), "no tokens"),
        (lambda: ablate_latents(MLP_IN, 2, positions=(1, 2), unit="seconds"), "seconds"),
        (lambda: ablate_latents(HOOK, 2, positions=(5, 2)), "span"),
    ],
)
def test_invalid_edits_are_refused(unchecked: None, make: Callable, words: str) -> None:
    with pytest.raises((ArgumentError, PatchError, ShapeError), match=words):
        make()


@torch.no_grad()
@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "resid_post"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_patches_with_an_attached_sae(component: str, stack: str) -> None:
    """Patches before the SAE, at its input, and at its output (which the model uses)."""
    name = f"{stack}.blocks.0.hook_{component}"
    base, source = (RunInputs(tokens(1), mel=mel[None]) for mel in mels())
    if stack == "decoder":
        source = RunInputs(tokens(2)[1:], mel=mels(1))
    with model().attach_sae(TOPK, f"{stack}.blocks.0"):
        activations = run_patches(
            model(), make_grid(model(), component, stack, blocks=[0]).patches, base, source, METRIC
        )  # type: ignore[arg-type]
        _, cached = model().run_with_cache(source.mel, source.tokens, names_filter=name)
        hook = [(name, lambda x: cached[name])]
        logits = model().run_with_hooks(base.mel, base.tokens, fwd_hooks=hook)
        plain = model()(base.mel, base.tokens)
    ends = [METRIC(x[:, [3]][..., [100, 200]]) for x in (logits, plain)]
    torch.testing.assert_close(activations.values.float(), ends[0], atol=1e-4, rtol=1e-3)
    assert activations.base == pytest.approx(float(ends[1]), abs=1e-4) and abs(float(ends[0] - ends[1])) > 1e-3
