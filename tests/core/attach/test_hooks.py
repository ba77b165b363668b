"""What hooks see of an attached SAE, in which order, and the gradients that pass through it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import CacheSizeError, UnknownHookError
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.attach.toys import (
    RESID,
    TOKENS,
    Toy,
    noise,
)
from tests.core.twins import Twins

# --- what hooks see, and in which order -----------------------------------------------------------------------------


def test_hooks_of_the_point_run_after_the_sae_and_are_final(one_block: Twins, core: WhisperCore) -> None:
    mel, tokens, sae = one_block.mel(), one_block.tokens(3), Toy(32)
    _, clean = core.run_with_cache(mel, names_filter=RESID)
    seen: list[Tensor] = []
    (early,) = core.add_hook(RESID, lambda x: seen.append(x))
    with core.attach_sae(sae, RESID), core.hooks([(RESID, lambda x: seen.append(x)), (RESID, torch.zeros_like)]):
        out, cache = core.run_with_cache(mel, tokens, names_filter=[RESID, f"{RESID}.hook_sae_input"])
    early.remove()
    assert torch.equal(seen[0], sae(clean[RESID])) and torch.equal(seen[1], seen[0])
    assert torch.equal(cache[RESID], torch.zeros_like(seen[0]))
    assert torch.equal(cache[f"{RESID}.hook_sae_input"], clean[RESID])
    assert torch.equal(out, core.run_with_hooks(mel, tokens, fwd_hooks=[(RESID, torch.zeros_like)]))


def test_published_names_and_patterns(one_block: Twins, core: WhisperCore) -> None:
    with core.attach_sae(Toy(128), "encoder.blocks.0.mlp.1") as model:
        assert model is core
        name = "encoder.blocks.0.mlp.hook_post.hook_sae_acts_post"
        assert core.hook_names("encoder.blocks.0.mlp.1.hook_sae_acts_post") == [name]
        _, cache = core.run_with_cache(one_block.mel(), names_filter="*.hook_sae_acts_post", stop_early=True)
        assert list(cache) == [name] and torch.equal(cache["encoder.blocks.0.mlp.1.hook_sae_acts_post"], cache[name])
        assert set(core.default_cache_names()) > set(core.hook_names("*.hook_sae_*"))
        with pytest.raises(UnknownHookError, match=r"did you mean .*hook_sae_acts_post"):
            core.hook_names(name.replace("acts_post", "acts_pots"))
    with pytest.raises(UnknownHookError, match=r"inside `with model.attach_sae"):
        core.hook_names(name)
    with pytest.raises(UnknownHookError, match=r"inside `with model.attach_sae"):
        core.hook_names("*.hook_sae_acts_post")


def test_a_pass_stops_at_the_latents(one_block: Twins, core: WhisperCore) -> None:
    sae, after = Toy(32), []
    with core.attach_sae(sae, "encoder.blocks.0.hook_resid_mid"), core.hooks([(RESID, lambda x: after.append(1))]):
        names = "encoder.blocks.0.hook_resid_mid.hook_sae_acts_post"
        out, cache = core.run_with_cache(one_block.mel(), one_block.tokens(2), names_filter=names, stop_early=True)
    assert out is None and list(cache) == [names] and not after and sae.decoded == 1  # when it was tried on


def test_the_size_of_latents_is_counted(one_block: Twins, core: WhisperCore) -> None:
    with core.attach_sae(Toy(32, n=5000), RESID), pytest.raises(CacheSizeError, match=r"0\.4 GiB"):
        core.run_with_cache(
            one_block.mel(1000), names_filter="*.hook_sae_acts_post", max_bytes=10**8
        )  # 1000 x 20 x 5000 x 4 bytes


def test_hooks_of_an_attached_sae_are_listed_and_reset(one_block: Twins, core: WhisperCore) -> None:
    acts = f"{TOKENS}.hook_sae_acts_post"
    offsets: list[int] = []
    encoder_out, cache = core.embed_audio(one_block.mel()), KVCache()
    with core.attach_sae(Toy(32), TOKENS):
        core.add_hook(acts, lambda x, hook: offsets.append(hook.offset))
        core.hook_dict[acts].ctx["kept"] = 1
        assert core.list_hooks() == {acts: 1} and core.hook_dict[acts].layer() == 0
        for n in (3, 1, 1):
            core.decoder(one_block.tokens(n), encoder_out, cache)
        core.reset_hooks()
        assert core.list_hooks() == {} and core.hook_dict[acts].ctx == {}
        logits = core.logits(one_block.tokens(3), encoder_out)
        assert acts in core.hook_dict
    assert offsets == [0, 3, 4] and not torch.equal(logits, core.logits(one_block.tokens(3), encoder_out))


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_error_term", [False, True])
@pytest.mark.parametrize("positions", [None, slice(3, 11)], ids=["everywhere", "span"])
def test_gradients_to_latents_are_finite_differences(
    one_block: Twins, use_error_term: bool, positions: slice | None
) -> None:
    core, mel, tokens = one_block.core64, one_block.mel(dtype=torch.float64), one_block.tokens(3)
    sae = Toy(32)
    sae.enc, sae.dec, sae.bias = sae.enc.double(), sae.dec.double(), sae.bias.double()
    parts = ("acts_post", "recons", "output", *(["error"] if use_error_term else []))
    direction = torch.randn(1, 3, 67, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(logits: Tensor) -> Tensor:
        return (logits * direction).sum()

    def loss_with(name: str, added: Tensor) -> float:
        with torch.no_grad():
            return loss(core.run_with_hooks(mel, tokens, fwd_hooks=[(name, lambda x: x + added)])).item()

    with core.attach_sae(sae, RESID, use_error_term=use_error_term, positions=positions):
        names = [f"{RESID}.hook_sae_{part}" for part in parts]
        out, cache = core.run_with_cache(mel, tokens, names_filter=names, incl_bwd=True, loss_fn=loss)
        assert out is not None and all(p.grad is None for p in core.parameters())
        for name in names:
            # one step along the gradient and one along anything
            for along in (cache[f"{name}_grad"], noise(torch.zeros_like(cache[name]))):
                step = 1e-5 * along / along.norm()
                ends = [loss_with(name, sign * step) for sign in (1, -1)]
                slope = float((cache[f"{name}_grad"] * step).sum())
                assert (ends[0] - ends[1]) / 2 == pytest.approx(slope, rel=1e-5, abs=1e-12), name


def test_gradients_pass_through_the_sae_and_not_past_it(one_block: Twins, core: WhisperCore) -> None:
    point, sae = core.hook_dict[RESID], Toy(32)
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    direction = noise(torch.zeros_like(x.detach()))
    (wanted,) = torch.autograd.grad(sae(x), x, direction)
    for use_error_term in (False, True):
        with core.attach_sae(sae, RESID, use_error_term=use_error_term):
            (gradient,) = torch.autograd.grad(point(x), x, direction)
        torch.testing.assert_close(gradient, wanted)
        with core.attach_sae(sae, RESID, use_error_term=use_error_term, positions=slice(3, 9)):
            (gradient,) = torch.autograd.grad(point(x), x, direction)
        torch.testing.assert_close(gradient[:, 3:9], wanted[:, 3:9])
        assert torch.equal(gradient[:, :3], direction[:, :3]) and torch.equal(gradient[:, 9:], direction[:, 9:])


def test_backward_hooks(one_block: Twins, core: WhisperCore) -> None:
    grads: dict[str, Tensor] = {}
    with core.attach_sae(Toy(32), RESID, use_error_term=True):
        with core.hooks(bwd_hooks=[("*.hook_sae_*", lambda g, hook: grads.update({hook.name: g}))]):
            core(one_block.mel(), one_block.tokens(2)).square().sum().backward()
        core.zero_grad()
    assert [name.rsplit("_", 1)[1] for name in sorted(grads)] == ["post", "error", "input", "output", "recons"]
    assert torch.equal(grads[f"{RESID}.hook_sae_error"], grads[f"{RESID}.hook_sae_output"])
