"""Every SAE and transcoder is attached to a model, and trained through it."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.errors import ConfigError, PatchError
from sae_lens_audio.architectures import (
    BatchTopK,
    BatchTopKConfig,
    Standard,
    StandardConfig,
    Transcoder,
)
from sae_lens_audio.latents import ablate_latents
from tests.sae.attach.attached import (
    ACTS,
    HOOK,
    MLP_IN,
    MLP_OUT,
    SAES,
    TRANSCODERS,
    D,
    F,
    mels,
    model,
    reconstructed,
    tokens,
)

# --- every architecture ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("sae", SAES.values(), ids=SAES)
@pytest.mark.parametrize("use_error_term", [False, True])
def test_every_sae_is_attached(sae: object, use_error_term: bool) -> None:
    clean, _ = model().run_with_cache(mels(), tokens(), names_filter=HOOK)
    with model().attach_sae(sae, "encoder.blocks.0", use_error_term=use_error_term):
        out, cached = model().run_with_cache(mels(), tokens(), names_filter=f"{HOOK}*")
        x = cached[f"{HOOK}.hook_sae_input"]
        assert torch.equal(cached[ACTS], sae.encode(x))  # type: ignore[attr-defined]
        torch.testing.assert_close(cached[f"{HOOK}.hook_sae_recons"], reconstructed(sae, x))
        assert torch.equal(cached[HOOK], x if use_error_term else reconstructed(sae, x))
        assert torch.equal(out, clean) is use_error_term
        assert torch.equal(model().run_with_hooks(mels(), tokens(), fwd_hooks=[("*.hook_sae_*", lambda x: None)]), out)
    assert torch.equal(model()(mels(), tokens()), clean)


@torch.no_grad()
@pytest.mark.parametrize("sae", TRANSCODERS, ids=lambda sae: sae.architecture)
def test_every_transcoder_is_attached(sae: Transcoder) -> None:
    clean, cached = model().run_with_cache(mels(), tokens(), names_filter=MLP_IN)
    predicted = sae(cached[MLP_IN])
    with model().attach_sae(sae, MLP_IN, hook_out=MLP_OUT):
        out, cache = model().run_with_cache(mels(), tokens(), names_filter=[f"{MLP_IN}.*", MLP_OUT])
    assert torch.equal(cache[f"{MLP_IN}.hook_sae_acts_post"], sae.encode(cached[MLP_IN]))
    assert torch.equal(cache[MLP_OUT], predicted) and torch.equal(cache[f"{MLP_IN}.hook_sae_recons"], predicted)
    assert torch.equal(out, model().run_with_hooks(mels(), tokens(), fwd_hooks=[(MLP_OUT, lambda x: predicted)]))
    with model().attach_sae(sae, MLP_IN, hook_out=MLP_OUT, use_error_term=True):
        assert torch.equal(model()(mels(), tokens()), clean)
        edit = ablate_latents(MLP_IN, range(F))
        ablated, _ = model().run_with_cache(mels(), tokens(), names_filter=MLP_OUT, fwd_hooks=edit)
        assert not torch.equal(ablated, clean)
    with pytest.raises(PatchError, match="hook_out="), model().attach_sae(sae, MLP_IN):
        pass


def test_widths_and_thresholds_are_checked(unchecked: None) -> None:
    with pytest.raises(PatchError, match="d_in = 31"), model().attach_sae(Standard(StandardConfig(31, F)), HOOK):
        pass
    with (
        pytest.raises(ConfigError, match="no threshold yet"),
        model().attach_sae(BatchTopK(BatchTopKConfig(D, F)), HOOK),
    ):
        model()(mels(), tokens())
    assert model().hook_names("*hook_resid_post") and not model().list_hooks()


def test_an_sae_is_trained_through_the_model() -> None:
    sae = Standard(StandardConfig(D, F))
    with model().attach_sae(sae, HOOK):
        model()(mels(), tokens()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sae.parameters())
    assert HOOK not in dict(sae.named_modules()) and not any("sae" in key for key in model().state_dict())
    model().zero_grad()
