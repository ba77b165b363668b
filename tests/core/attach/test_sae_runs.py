"""SAELens' calls: run_with_saes, run_with_cache_with_saes, run_with_hooks_with_saes and the context manager."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hooked_whisper.errors import ArgumentError
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins

HOOK, OTHER = "encoder.blocks.0.hook_resid_post", "decoder.blocks.0.hook_mlp_out"


class LinearSAE(nn.Module):
    """A random encoder and decoder of 32 wide vectors."""

    d_in, n_features = 32, 64

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.w = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed)) / 8

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.w).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.w.T


@pytest.fixture
def sae() -> Any:
    return LinearSAE()


def test_it_equals_attach_sae(one_block: Twins, core: WhisperCore, sae: Any) -> None:
    mel, tokens = one_block.mel(), one_block.tokens(4)
    with core.attach_sae(sae, HOOK):
        expected = core(mel, tokens)
    known = SimpleNamespace(sae=sae, metadata=SimpleNamespace(hook_name=HOOK, hook_name_out=None))
    for saes in ({HOOK: sae}, [(HOOK, sae)], [[HOOK, sae]], (HOOK, sae), known, [known]):
        assert torch.equal(core.run_with_saes(mel, tokens, saes=saes), expected)
    with core.saes({HOOK: sae}) as attached:
        assert attached is core and torch.equal(core(mel, tokens), expected)
    _, cache = core.run_with_cache_with_saes(mel, tokens, saes={HOOK: sae}, names_filter="*.hook_sae_acts_post")
    assert list(cache) == [f"{HOOK}.hook_sae_acts_post"] and cache[f"{HOOK}.hook_sae_acts_post"].shape == (1, 20, 64)
    loss = core.run_with_saes(mel, tokens, saes={HOOK: sae}, return_type="loss")
    torch.testing.assert_close(loss, core.loss_fn(expected, tokens))


def test_the_error_term_changes_nothing_until_an_edit(one_block: Twins, core: WhisperCore, sae: Any) -> None:
    mel, tokens = one_block.mel(), one_block.tokens(4)
    both = {HOOK: sae, OTHER: LinearSAE(1)}
    assert torch.equal(core.run_with_saes(mel, tokens, saes=both, use_error_term=True), core(mel, tokens))
    assert not torch.equal(core.run_with_saes(mel, tokens, saes=both), core(mel, tokens))
    sae.use_error_term = True  # SAELens keeps it on the SAE
    assert torch.equal(core.run_with_saes(mel, tokens, saes={HOOK: sae}), core(mel, tokens))
    assert not torch.equal(core.run_with_saes(mel, tokens, saes={HOOK: sae}, use_error_term=False), core(mel, tokens))

    def ablate(latents: Tensor) -> Tensor:
        latents[..., 3] = 0
        return latents

    edited = core.run_with_hooks_with_saes(
        mel, tokens, saes={HOOK: sae}, fwd_hooks=[(f"{HOOK}.hook_sae_acts_post", ablate)]
    )
    assert not torch.equal(edited, core(mel, tokens))


@pytest.mark.usefixtures("unchecked")
def test_an_error_term_that_is_no_bool_is_refused(one_block: Twins, core: WhisperCore, sae: Any) -> None:
    with pytest.raises(ArgumentError, match="use_error_term must be True, False or None, not 'yes'"):
        core.run_with_saes(one_block.mel(), saes={HOOK: sae}, use_error_term="yes")


def test_an_sae_whose_hook_point_is_unknown(one_block: Twins, core: WhisperCore, sae: Any) -> None:
    for saes, message in (
        ([sae], r"hook point of LinearSAE is unknown: pass saes=\{hook: sae\}"),
        ({}, "saes is empty"),
        (3, r"saes is \{hook: sae\}"),
    ):
        with pytest.raises(ArgumentError, match=message):
            core.run_with_saes(one_block.mel(), saes=saes)
    for keyword in ("saes", "use_error_term"):
        with pytest.raises(ArgumentError, match="run_with_cache_with_saes"):
            core.run_with_cache(one_block.mel(), **{keyword: True})
    with pytest.raises(AttributeError, match=r"model\.saes"):
        core.add_sae(sae)
    for call, message in (
        (lambda: core.run_with_saes(one_block.mel(), saes={HOOK: sae}, reset_saes_end=True), "when the call ends"),
        (lambda: core.saes({HOOK: sae}, reset_saes_end=True), "when the context ends"),
        (lambda: core.attach_sae(sae, HOOK, use_error=True), r"did you mean use_error_term=\?"),
        (lambda: core.run_with_hooks(one_block.mel(), reset_hooks_end=True), "when their context ends"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()
