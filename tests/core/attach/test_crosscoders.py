"""Crosscoders read several points and replace each: two passes, error term, positions, decoding."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.decoding.generate import generate
from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.attach.toys import Sized, attached_state, noise
from tests.core.twins import Twins

D, N = 96, 12  # of the model "odd": 2 encoder blocks, 3 decoder blocks
RESID = [f"decoder.blocks.{b}.hook_resid_post" for b in range(3)]
MLP = [f"decoder.blocks.{b}.hook_mlp_out" for b in range(3)]
ENCODER = ["encoder.blocks.0.hook_resid_post", "encoder.blocks.1.hook_resid_post"]
SITES = {
    "residual stream": RESID[:2],
    "three blocks": RESID,
    "MLP outputs": [MLP[0], MLP[2]],
    "one block": ["decoder.blocks.1.hook_resid_pre", "decoder.blocks.1.hook_mlp_out"],
    "heads": ["decoder.blocks.0.attn.hook_z", "decoder.blocks.1.cross_attn.hook_z"],
    "encoder": ENCODER,
    "encoder MLP": ["encoder.blocks.0.hook_mlp_out", "encoder.blocks.1.hook_mlp_out"],
}


class Toy:
    """A crosscoder with random weights."""

    def __init__(self, n_blocks: int, d_in: int = D, seed: int = 0) -> None:
        rand = torch.Generator().manual_seed(seed)
        self.n_blocks, self.d_in, self.n_features = n_blocks, d_in, N
        self.enc = torch.randn(n_blocks * d_in, N, generator=rand) * (n_blocks * d_in) ** -0.5
        self.dec = torch.randn(N, n_blocks, d_in, generator=rand) * N**-0.5
        self.bias = 0.3 * torch.randn(n_blocks, d_in, generator=rand)

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(-2).to(self.enc.dtype) @ self.enc + 0.1).relu()

    def decode(self, f: Tensor) -> Tensor:
        return torch.einsum("...f,fnd->...nd", f, self.dec) + self.bias

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)).to(x.dtype)


@pytest.fixture
def core(odd: Twins) -> WhisperCore:
    return odd.core


def stacked(cache: object, sites: Sequence[str]) -> Tensor:
    tensors = [cache[site] for site in sites]  # type: ignore[index]
    return torch.stack(
        [t.flatten(2) if site.endswith("hook_z") else t for site, t in zip(sites, tensors, strict=True)], -2
    )


@torch.no_grad()
@pytest.mark.parametrize("sites", SITES.values(), ids=SITES)
def test_every_point_is_replaced_by_its_reconstruction(odd: Twins, core: WhisperCore, sites: list[str]) -> None:
    mel, tokens, toy = odd.mel(2), odd.tokens(4, 2), Toy(len(sites))
    before = attached_state(core)
    clean, cache = core.run_with_cache(mel, tokens, names_filter=sites)
    x = stacked(cache, sites)
    with core.attach_sae(toy, sites):
        parts = core.hook_names("*.hook_sae_*")
        order: list[str] = []
        core.run_with_hooks(mel, tokens, fwd_hooks=[("*.hook_sae_*", lambda x, hook: order.append(hook.name))])
        assert order == parts and len(parts) == 3 * len(sites) + 1  # each fires once
        out, inside = core.run_with_cache(mel, tokens, names_filter=[*sites, *parts])
        assert torch.equal(core(mel, tokens), out)
    torch.testing.assert_close(stacked(inside, sites), toy(x))
    torch.testing.assert_close(inside[f"{sites[0]}.hook_sae_acts_post"], toy.encode(x))
    for slot, site in enumerate(sites):
        assert torch.equal(inside[f"{site}.hook_sae_input"], cache[site])  # of the model without the crosscoder
        assert torch.equal(inside[site], inside[f"{site}.hook_sae_output"])
        assert inside.axes(f"{site}.hook_sae_recons") == core.hook_dict[site].axes, slot
    recons = dict(zip(sites, toy(x).unbind(-2), strict=True))
    by_hand = [(site, lambda x, r=r: r.reshape(x.shape)) for site, r in recons.items()]
    torch.testing.assert_close(out, core.run_with_hooks(mel, tokens, fwd_hooks=by_hand))
    assert attached_state(core) == before and torch.equal(core(mel, tokens), clean)


@torch.no_grad()
@given(
    name=st.sampled_from(sorted(SITES)),
    rows=st.integers(1, 3),
    seed=st.integers(0, 99),
    masked=st.sampled_from(["everywhere", "slice", "rows"]),
    written=st.sampled_from(["all", "first", "last"]),
)
def test_the_error_term_gives_the_clean_run(
    odd: Twins, name: str, rows: int, seed: int, masked: str, written: str
) -> None:
    core, sites, toy = odd.core, SITES[name], Toy(len(SITES[name]), seed=seed)
    mel, tokens = odd.mel(rows), odd.tokens(5, rows)
    places = 5 if sites[0].startswith("decoder") else 60
    mask = torch.rand(rows, places, generator=torch.Generator().manual_seed(seed)) < 0.5
    positions = {"everywhere": None, "slice": slice(1, 3), "rows": mask}[masked]
    out = {"all": None, "first": sites[0], "last": sites[-1]}[written]
    clean = core(mel, tokens)
    with core.attach_sae(toy, sites, use_error_term=True, positions=positions, hook_out=out):
        assert torch.equal(core(mel, tokens), clean)
    with core.attach_sae(toy, sites, positions=positions, hook_out=out):
        assert not torch.equal(core(mel, tokens), clean)
    assert torch.equal(core(mel, tokens), clean)


@torch.no_grad()
def test_an_edited_latent_changes_each_point_by_its_row_once(odd: Twins, core: WhisperCore) -> None:
    mel, tokens, toy = odd.mel(2), odd.tokens(4, 2), Toy(3)
    _, cache = core.run_with_cache(mel, tokens, names_filter=RESID)
    f = toy.encode(stacked(cache, RESID))
    edit = [(f"{RESID[0]}.hook_sae_acts_post", lambda f: f * (torch.arange(N) != 3))]
    with core.attach_sae(toy, RESID, use_error_term=True):
        _, edited = core.run_with_cache(mel, tokens, names_filter=RESID, fwd_hooks=edit)
    for slot, site in enumerate(RESID):
        torch.testing.assert_close(edited[site], cache[site] - f[..., 3:4] * toy.dec[3, slot])
    with core.attach_sae(toy, RESID, use_error_term=True, hook_out=RESID[1]):
        _, edited = core.run_with_cache(mel, tokens, names_filter=RESID, fwd_hooks=edit)
    torch.testing.assert_close(edited[RESID[1]], cache[RESID[1]] - f[..., 3:4] * toy.dec[3, 1])
    assert torch.equal(edited[RESID[0]], cache[RESID[0]]) and not torch.equal(edited[RESID[2]], cache[RESID[2]])


@torch.no_grad()
@pytest.mark.parametrize("use_error_term", [False, True])
def test_points_are_causal(odd: Twins, core: WhisperCore, use_error_term: bool) -> None:
    mel, tokens = odd.mel(), odd.tokens(4)
    for sites in (MLP[:2], RESID[:2]):
        with core.attach_sae(Toy(2), sites, use_error_term=use_error_term):
            bare = core(mel, tokens)
            for name in [*core.hook_names("*.hook_sae_*"), *core.hook_names("decoder.blocks.1.attn.hook_[qkvz]")]:
                # in the residual stream, the last point overwrites what hooks made of the points before
                overwritten = sites == RESID[:2] and name.startswith(RESID[0]) and not name.endswith(("input", "post"))
                moved = not torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(name, noise)]), bare)
                assert moved is not overwritten, name


@torch.no_grad()
def test_replacing_the_last_point_is_the_same_in_the_residual_stream(odd: Twins, core: WhisperCore) -> None:
    mel, tokens = odd.mel(2), odd.tokens(4, 2)
    runs: list[int] = []
    count = [("decoder.blocks.1.attn.hook_z", lambda z: runs.append(1))]
    with core.attach_sae(Toy(2), RESID[:2]):
        everywhere = core.run_with_hooks(mel, tokens, fwd_hooks=count)
    assert len(runs) == 2  # the block between runs twice
    with core.attach_sae(Toy(2), RESID[:2], hook_out=RESID[1]):
        assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=count), everywhere)
    assert len(runs) == 3


@torch.no_grad()
def test_caches_hold_the_write_pass(odd: Twins, core: WhisperCore) -> None:
    mel, tokens, toy = odd.mel(), odd.tokens(4), Toy(2)
    between = "decoder.blocks.1.hook_resid_pre"
    with core.attach_sae(toy, RESID[:2]):
        _, cache = core.run_with_cache(mel, tokens, names_filter=[between, RESID[0]])
        assert torch.equal(cache[between], cache[RESID[0]])
        _, early = core.run_with_cache(mel, tokens, names_filter=f"{RESID[0]}.hook_sae_acts_post", stop_early=True)
        assert list(early) == [f"{RESID[0]}.hook_sae_acts_post"]
        assert torch.equal(core.run_with_cache(mel, tokens, names_filter=RESID[0])[1][RESID[0]], cache[RESID[0]])


@torch.no_grad()
@pytest.mark.parametrize("use_error_term", [False, True])
@pytest.mark.parametrize("sites", [RESID[:2], MLP, SITES["one block"], SITES["heads"]])
def test_decoding_step_by_step_equals_one_pass(
    odd: Twins, core: WhisperCore, sites: list[str], use_error_term: bool
) -> None:
    encoded, prompt = core.embed_audio(odd.mel(2)), odd.tokens(3, 2)
    edit = [(f"{sites[0]}.hook_sae_acts_post", lambda f: f + 2 * (torch.arange(N) == 5))]
    toy = Toy(len(sites))
    with core.attach_sae(toy, sites, use_error_term=use_error_term, positions=range(1, 48, 2)), core.hooks(edit):
        result = generate(core, prompt, encoded, max_new_tokens=6)
        whole = prompt
        for _ in range(6):
            whole = torch.cat([whole, core.decoder(whole, encoded)[:, -1:].argmax(-1)], 1)
        cache = KVCache()
        steps = [core.decoder(tokens, encoded, cache) for tokens in whole.split((4, 1, 2, 2), 1)]
        torch.testing.assert_close(torch.cat(steps, 1), core.decoder(whole, encoded), rtol=1e-4, atol=1e-4)
    assert torch.equal(result, whole)


@torch.no_grad()
def test_reordered_rows_are_an_error_and_dropped_rows_are_not(odd: Twins, core: WhisperCore) -> None:
    encoded, tokens = core.embed_audio(odd.mel(2)), odd.tokens(4, 2)
    with core.attach_sae(Toy(2), RESID[:2]):
        whole = core.decoder(tokens, encoded)
        cache = KVCache()
        core.decoder(tokens[:, :2], encoded, cache)
        fewer = KVCache(cache)
        for key, states in fewer.items():
            fewer[key] = states[1:]
        torch.testing.assert_close(
            core.decoder(tokens[1:, 2:], encoded[1:], fewer), whole[1:, 2:], rtol=1e-4, atol=1e-4
        )
        for attn in (block.attn for block in core.decoder.blocks):  # as openai-whisper's beam search does
            for projection in (attn.key, attn.value):
                cache[projection] = cache[projection].flip(0)
        with pytest.raises(PatchError, match="decode greedily"):
            core.decoder(tokens[:, 2:], encoded, cache)


def test_gradients_pass_through_the_crosscoder(odd: Twins, core: WhisperCore) -> None:
    mel, tokens, toy = odd.mel(), odd.tokens(4), Toy(2)
    toy.dec.requires_grad_()
    names = ["encoder.hook_out", *(f"{site}.hook_sae_{part}" for site in MLP[:2] for part in ("input", "error"))]
    with core.attach_sae(toy, MLP[:2], use_error_term=True):
        _, cache = core.run_with_cache(
            mel,
            tokens,
            names_filter=[*names, f"{MLP[0]}.hook_sae_acts_post"],
            incl_bwd=True,
            loss_fn=lambda x: x[..., 3].sum(),
        )
        core(mel, tokens)[..., 3].sum().backward()
    for name in (*names, f"{MLP[0]}.hook_sae_acts_post"):
        assert cache[f"{name}_grad"].isfinite().all() and cache[f"{name}_grad"].abs().sum() > 0, name
    assert toy.dec.grad is not None and (toy.dec.grad.abs().sum((0, 2)) > 0).all()
    core.zero_grad()


@torch.no_grad()
def test_saes_and_transcoders_between_act_in_both_passes(odd: Twins, core: WhisperCore) -> None:
    mel, tokens, toy, sae = odd.mel(), odd.tokens(4), Toy(2), Sized(D)
    inner = "decoder.blocks.1.hook_attn_out"
    transcoder = Sized(D, d_out=D)
    ends = ("decoder.blocks.1.hook_mlp_in", "decoder.blocks.1.hook_mlp_out")
    with core.attach_sae(sae, inner), core.attach_sae(transcoder, ends[0], hook_out=ends[1]):
        _, cache = core.run_with_cache(mel, tokens, names_filter=RESID[:2])
        with core.attach_sae(toy, RESID[:2]):
            _, inside = core.run_with_cache(mel, tokens, names_filter=RESID[:2])
    torch.testing.assert_close(stacked(inside, RESID[:2]), toy(stacked(cache, RESID[:2])))


def test_what_does_not_fit_is_refused(odd: Twins, core: WhisperCore, unchecked: None) -> None:
    before = attached_state(core)
    for sites, n, words in (
        (RESID[:1], 2, "reads 2 hook points, not 1"),
        (RESID, 2, "reads 2 hook points, not 3"),
        (RESID[1::-1], 2, "in the order in which the model computes them"),
        ([RESID[0]] * 2, 2, "listed once each"),
        ([ENCODER[0], RESID[0]], 2, "inside the blocks of one stack"),
        (["decoder.hook_embed", RESID[0]], 2, r"decoder\.hook_embed.*hook_resid_pre"),
        ([RESID[0], "decoder.blocks.1.mlp.hook_post"], 2, "takes d_in = 96"),
        (["decoder.blocks.0.hook_resid_post", "decoder.blocks.1.cross_attn.hook_k"], 2, "the same positions"),
        (["decoder.blocks.0.hook_*", RESID[1]], 2, "names .* points"),
    ):
        with pytest.raises(PatchError, match=words), core.attach_sae(Toy(n), sites):
            pass
    with pytest.raises(PatchError, match="not among the points"), core.attach_sae(Toy(2), RESID[:2], hook_out=RESID[2]):
        pass
    with core.attach_sae(Toy(2), RESID[:2]):
        for sites in (RESID[1:], [MLP[1], "decoder.blocks.2.hook_mlp_out"]):
            with pytest.raises(PatchError, match=r"already"), core.attach_sae(Toy(2), sites):
                pass
        with core.attach_sae(Toy(2), ENCODER), pytest.raises(HookedWhisperError, match="did not run before"):
            core.decoder.blocks[1].hook_resid_post(torch.zeros(1, 4, D))
    assert attached_state(core) == before


def test_nothing_stays(odd: Twins) -> None:
    core, toy = copy.deepcopy(odd.core), Toy(2)
    mel, tokens = odd.mel(), odd.tokens(4)
    plain, keys = core(mel, tokens), list(core.state_dict())
    with core.attach_sae(toy, MLP[:2]):
        copied = copy.deepcopy(core)
        assert list(core.state_dict()) == keys and copied.hook_names() == odd.core.hook_names()
        _, cache = core.run_with_cache(mel, tokens, incl_bwd=True, loss_fn=lambda logits: logits.sum())
        core.run_with_cache(mel, tokens, names_filter=MLP[0], stop_early=True)
    assert torch.equal(copied(mel, tokens), plain) and torch.equal(core(mel, tokens), plain)
    gc.collect()
    gc.disable()
    try:
        dead = [weakref.ref(thing) for thing in (core, toy, cache[f"{MLP[0]}.hook_sae_acts_post"])]
        del core, toy, cache
        assert [ref() for ref in dead] == [None] * 3
    finally:
        gc.enable()
