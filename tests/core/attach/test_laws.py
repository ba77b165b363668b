"""Laws of an attached SAE at every point that has vectors: error term, heads, dtypes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import PatchError
from hooked_whisper.hooks.attach_layout import layouts
from hooked_whisper.model import WhisperCore
from tests.core.attach.toys import (
    OTHERS,
    PARTS,
    POINTS,
    RESID,
    Toy,
    noise,
    same,
    width,
)
from tests.core.twins import Twins

# --- laws, at every point that has vectors --------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", POINTS)
def test_laws_at_every_point(one_block: Twins, core: WhisperCore, name: str) -> None:
    mel, tokens = one_block.mel(), one_block.tokens(2)
    sae = Toy(width(core, name), seed=3)
    joined = layouts(core.hook_dict[name])[0].heads
    by_hand = lambda x: sae(x.flatten(-2)).view_as(x) if joined else sae(x)  # noqa: E731
    plain, wanted = (core.run_with_hooks(mel, tokens, fwd_hooks=[(name, fn)]) for fn in (same, by_hand))
    assert not torch.equal(plain, wanted)
    for use_error_term, out in ((False, wanted), (True, plain)):
        with core.attach_sae(sae, name, use_error_term=use_error_term):
            parts = core.hook_names(f"{name}.hook_sae_*")
            assert parts == [f"{name}.hook_sae_{part}" for part in PARTS if use_error_term or part != "error"]
            before = sae.encoded, sae.decoded
            bare = core(mel, tokens)
            assert (sae.encoded - before[0], sae.decoded - before[1]) == (1, 1)
            torch.testing.assert_close(bare, out, rtol=1e-5, atol=1e-5)
            assert torch.equal(bare, out) or not use_error_term
            assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[("*.hook_sae_*", same)]), bare)
            for part in parts:
                assert not torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, noise)]), bare), part
    assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(name, same)]), plain)


@pytest.mark.parametrize("name", POINTS)
def test_announced_shapes_are_the_shapes(one_block: Twins, core: WhisperCore, name: str) -> None:
    mel, tokens = one_block.mel(2), one_block.tokens(4, 2)
    sizes = {"batch": 2, "position": 20, "token": 4, "frame": 40, "d_model": 32, "vocab": 67}
    with core.attach_sae(Toy(width(core, name)), name, use_error_term=True):
        _, cache = core.run_with_cache(mel, tokens, names_filter=[name, f"{name}.hook_sae_*"])
        assert list(cache) == core.hook_names([name, f"{name}.hook_sae_*"])
        for part, tensor in cache.items():
            point = core.hook_dict[part]
            assert tuple(tensor.shape) == point.shape(sizes) and cache.axes(part) == point.axes
            assert point.stack == core.hook_dict[name].stack and point.site == name
        assert cache.axes(f"{name}.hook_sae_acts_post")[-1] == "d_sae"
        assert torch.equal(cache[name], cache[f"{name}.hook_sae_output"])
    assert cache.axes(f"{name}.hook_sae_acts_post")[-1] == "d_sae"  # a cache outlives the attached SAE


@pytest.mark.parametrize("name", OTHERS)
def test_points_without_vectors_are_refused(core: WhisperCore, name: str) -> None:
    with pytest.raises(PatchError, match=r"has no vectors to encode") as raised, core.attach_sae(Toy(32), name):
        pass
    assert f"{name} [" in str(raised.value)


# --- the error term -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_edits_are_not_masked_by_the_error(one_block: Twins, core: WhisperCore) -> None:
    mel, sae = one_block.mel(), Toy(32)
    _, clean = core.run_with_cache(mel, names_filter=RESID)
    x = clean[RESID]
    f = sae.encode(x)

    def run(part: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
        return core.run_with_cache(mel, names_filter=RESID, fwd_hooks=[(f"{RESID}.hook_sae_{part}", edit)])[1][RESID]

    with core.attach_sae(sae, RESID, use_error_term=True):
        ablated = run("acts_post", lambda f: f * (torch.arange(12) != 3))
        torch.testing.assert_close(ablated, x - f[..., 3:4] * sae.dec[3])
        torch.testing.assert_close(run("recons", lambda r: r + 1), x + 1)
        torch.testing.assert_close(run("error", torch.zeros_like), sae(x))
        torch.testing.assert_close(run("input", lambda x: x.flip(1)), x + sae(x.flip(1)) - sae(x))
        assert torch.equal(run("output", torch.zeros_like), torch.zeros_like(x))
        before = sae.encoded, sae.decoded
        run("acts_post", same), run("input", same)
        assert (sae.encoded - before[0], sae.decoded - before[1]) == (2, 2)
        run("acts_post", noise)
        assert (sae.encoded - before[0], sae.decoded - before[1]) == (3, 4)


# --- heads, dtypes ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_heads_together_or_each_alone(one_block: Twins, core: WhisperCore) -> None:
    z, mel = "encoder.blocks.0.attn.hook_z", one_block.mel(2)
    for sae, axes in ((Toy(32), ("batch", "position")), (Toy(16), ("batch", "position", "head"))):
        mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.5
        with core.attach_sae(sae, z, positions=mask):
            _, cache = core.run_with_cache(mel, names_filter=f"{z}*")
        assert cache.axes(f"{z}.hook_sae_acts_post") == (*axes, "d_sae")
        x = cache[f"{z}.hook_sae_input"]
        reconstruction = sae(x.flatten(2)).view_as(x) if len(axes) == 2 else sae(x)
        torch.testing.assert_close(cache[z], torch.where(mask[:, :, None, None], reconstruction, x))


@torch.no_grad()
def test_half_precision_goes_in_and_comes_out(one_block: Twins) -> None:
    core = copy.deepcopy(one_block.core).to(torch.bfloat16)
    sae, mel = Toy(32), one_block.mel(dtype=torch.bfloat16)
    plain = core(mel, one_block.tokens(3))
    for use_error_term in (False, True):
        with core.attach_sae(sae, RESID, use_error_term=use_error_term, positions=slice(0, 15)):
            _, cache = core.run_with_cache(mel, one_block.tokens(3), names_filter=f"{RESID}*")
            assert torch.equal(core(mel, one_block.tokens(3)), plain) is use_error_term
            assert core.embed_audio(mel).dtype == torch.bfloat16
        kinds = {name.rsplit(".hook_")[-1]: t.dtype for name, t in cache.items()}
        assert kinds.pop("sae_acts_post") == torch.float32 and set(kinds.values()) == {torch.bfloat16}
