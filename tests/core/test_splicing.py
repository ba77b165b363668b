"""A dictionary spliced in: what its points promise, what they cost, and that nothing of it stays."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import weakref
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import CacheSizeError, HookedWhisperError, PatchError, UnknownHookError
from hooked_whisper.features.bases import axes as neurons
from hooked_whisper.hooks.caching import axis_sizes
from hooked_whisper.hooks.splice_layout import layouts
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.twins import Twins, listeners, make_twins

PARTS = ["input", "acts_post", "recons", "error", "output"]
RESID = "encoder.blocks.0.hook_resid_post"
TOKENS = "decoder.blocks.0.hook_resid_post"
ONE = make_twins("one").core
POINTS = [name for name, point in ONE.hook_dict.items() if layouts(point, ONE.cfg)]
OTHERS = [name for name in ONE.hook_names() if name not in POINTS]


class Toy:
    """A dictionary with random weights that says nothing about its sizes, and counts what it is asked for."""

    def __init__(self, d_in: int, n: int = 12, d_out: int | None = None, seed: int = 0) -> None:
        rand = torch.Generator().manual_seed(seed)
        self.enc = torch.randn(d_in, n, generator=rand) * d_in**-0.5
        self.dec = torch.randn(n, d_out or d_in, generator=rand) * n**-0.5
        self.bias = 0.3 * torch.randn(d_out or d_in, generator=rand)
        self.encoded = self.decoded = 0

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += 1
        return (x.to(self.enc.dtype) @ self.enc + 0.1).relu()

    def decode(self, f: Tensor) -> Tensor:
        self.decoded += 1
        return f @ self.dec + self.bias

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)).to(x.dtype)


class Sized(Toy):
    """The same, with its sizes."""

    def __init__(self, d_in: int, n: int = 12, d_out: int | None = None, seed: int = 0) -> None:
        super().__init__(d_in, n, d_out, seed)
        self.d_in, self.n_features = d_in, n
        if d_out is not None:
            self.d_out = d_out


class Skips(Sized):
    """A transcoder with a path past the features."""

    def decode_like(self, f: Tensor, x: Tensor) -> Tensor:
        return self.decode(f) + 0.5 * x.flip(-1)


def same(x: Tensor) -> None:
    """A hook that looks only."""


def noise(x: Tensor) -> Tensor:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)


def width(core: WhisperCore, name: str) -> int:
    return layouts(core.hook_dict[name], core.cfg)[0].width


def spliced(core: WhisperCore) -> dict[str, list[object]]:
    """Whatever a splice could leave behind."""
    found = {name: listeners(core).get(name, []) for name in core.hook_names()}
    return found | {f"{name} replaced": [p._splice] for name, p in core.hook_dict.items()}


@pytest.fixture
def core(one: Twins) -> WhisperCore:
    return one.core


@pytest.fixture(autouse=True)
def no_splice_left() -> object:
    yield
    for size in ("one", "odd"):
        core = make_twins(size).core
        assert all(point._splice is None and point.site == name for name, point in core.hook_dict.items())


# --- laws, at every point that has vectors --------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", POINTS)
def test_laws_at_every_point(one: Twins, core: WhisperCore, name: str) -> None:
    mel, tokens = one.mel(), one.tokens(2)
    sae = Toy(width(core, name), seed=3)
    joined = layouts(core.hook_dict[name], core.cfg)[0].heads
    by_hand = lambda x: sae(x.flatten(-2)).view_as(x) if joined else sae(x)  # noqa: E731
    plain, wanted = (core.run_with_hooks(mel, tokens, fwd_hooks=[(name, fn)]) for fn in (same, by_hand))
    assert not torch.equal(plain, wanted)
    for error_term, out in ((False, wanted), (True, plain)):
        with core.splice(sae, name, error_term=error_term):
            parts = core.hook_names(f"{name}.hook_sae_*")
            assert parts == [f"{name}.hook_sae_{part}" for part in PARTS if error_term or part != "error"]
            before = sae.encoded, sae.decoded
            bare = core(mel, tokens)
            assert (sae.encoded - before[0], sae.decoded - before[1]) == (1, 1)
            torch.testing.assert_close(bare, out, rtol=1e-5, atol=1e-5)
            assert torch.equal(bare, out) or not error_term
            assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[("*.hook_sae_*", same)]), bare)
            for part in parts:
                assert not torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, noise)]), bare), part
    assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(name, same)]), plain)


@pytest.mark.parametrize("name", POINTS)
def test_shapes_are_those_that_are_announced(one: Twins, core: WhisperCore, name: str) -> None:
    mel, tokens = one.mel(2), one.tokens(4, 2)
    sizes = {"batch": 2, "position": 20, "token": 4, "frame": 40, "d_model": 32, "vocab": 67}
    with core.splice(Toy(width(core, name)), name, error_term=True):
        _, cache = core.run_with_cache(mel, tokens, names=[name, f"{name}.hook_sae_*"])
        assert list(cache) == core.hook_names([name, f"{name}.hook_sae_*"])
        for part, tensor in cache.items():
            point = core.hook_dict[part]
            assert tuple(tensor.shape) == axis_sizes(point, core.cfg, sizes) and cache.axes(part) == point.axes
            assert point.stack == core.hook_dict[name].stack and point.site == name
        assert cache.axes(f"{name}.hook_sae_acts_post")[-1] == "d_sae"
        assert torch.equal(cache[name], cache[f"{name}.hook_sae_output"])
    assert cache.axes(f"{name}.hook_sae_acts_post")[-1] == "d_sae"  # a cache outlives its splice


@pytest.mark.parametrize("name", OTHERS)
def test_points_without_vectors_are_refused(core: WhisperCore, name: str) -> None:
    with pytest.raises(PatchError, match=r"has no vectors to encode") as raised, core.splice(Toy(32), name):
        pass
    assert f"{name} [" in str(raised.value)


# --- what hooks see, and in which order -----------------------------------------------------------------------------


def test_hooks_of_the_point_come_behind_the_splice_and_are_final(one: Twins, core: WhisperCore) -> None:
    mel, tokens, sae = one.mel(), one.tokens(3), Toy(32)
    _, clean = core.run_with_cache(mel, names=RESID)
    seen: list[Tensor] = []
    (early,) = core.add_hook(RESID, lambda x: seen.append(x))
    with core.splice(sae, RESID), core.hooks([(RESID, lambda x: seen.append(x)), (RESID, torch.zeros_like)]):
        out, cache = core.run_with_cache(mel, tokens, names=[RESID, f"{RESID}.hook_sae_input"])
    early.remove()
    assert torch.equal(seen[0], sae(clean[RESID])) and torch.equal(seen[1], seen[0])
    assert torch.equal(cache[RESID], torch.zeros_like(seen[0]))
    assert torch.equal(cache[f"{RESID}.hook_sae_input"], clean[RESID])
    assert torch.equal(out, core.run_with_hooks(mel, tokens, fwd_hooks=[(RESID, torch.zeros_like)]))


def test_published_names_and_patterns(one: Twins, core: WhisperCore) -> None:
    with core.splice(Toy(128), "encoder.blocks.0.mlp.1") as model:
        assert model is core
        name = "encoder.blocks.0.mlp.hook_post.hook_sae_acts_post"
        assert core.hook_names("encoder.blocks.0.mlp.1.hook_sae_acts_post") == [name]
        _, cache = core.run_with_cache(one.mel(), names="*.hook_sae_acts_post", return_type=None)
        assert list(cache) == [name] and torch.equal(cache["encoder.blocks.0.mlp.1.hook_sae_acts_post"], cache[name])
        assert set(core.default_cache_names()) > set(core.hook_names("*.hook_sae_*"))
        with pytest.raises(UnknownHookError, match=r"did you mean .*hook_sae_acts_post"):
            core.hook_names(name.replace("acts_post", "acts_pots"))
    with pytest.raises(UnknownHookError, match=r"inside `with model.splice"):
        core.hook_names(name)
    with pytest.raises(UnknownHookError, match=r"inside `with model.splice"):
        core.hook_names("*.hook_sae_acts_post")


def test_a_pass_stops_at_the_latents(one: Twins, core: WhisperCore) -> None:
    sae, after = Toy(32), []
    with core.splice(sae, "encoder.blocks.0.hook_resid_mid"), core.hooks([(RESID, lambda x: after.append(1))]):
        names = "encoder.blocks.0.hook_resid_mid.hook_sae_acts_post"
        out, cache = core.run_with_cache(one.mel(), one.tokens(2), names=names, return_type=None)
    assert out is None and list(cache) == [names] and not after and sae.decoded == 1  # when it was tried on


def test_the_size_of_latents_is_counted(one: Twins, core: WhisperCore) -> None:
    with core.splice(Toy(32, n=5000), RESID), pytest.raises(CacheSizeError, match=r"0\.4 GiB"):
        core.run_with_cache(one.mel(1000), names="*.hook_sae_acts_post", max_bytes=10**8)  # 1000 x 20 x 5000 x 4 bytes


def test_hooks_inside_a_splice_are_listed_reset_and_know_where_they_are(one: Twins, core: WhisperCore) -> None:
    acts = f"{TOKENS}.hook_sae_acts_post"
    offsets: list[int] = []
    encoder_out, cache = core.embed_audio(one.mel()), KVCache()
    with core.splice(Toy(32), TOKENS):
        core.add_hook(acts, lambda x, hook: offsets.append(hook.offset))
        core.hook_dict[acts].ctx["kept"] = 1
        assert core.list_hooks() == {acts: 1} and core.hook_dict[acts].layer() == 0
        for n in (3, 1, 1):
            core.decoder(one.tokens(n), encoder_out, cache)
        core.reset_hooks()
        assert core.list_hooks() == {} and core.hook_dict[acts].ctx == {}
        logits = core.logits(one.tokens(3), encoder_out)
        assert acts in core.hook_dict
    assert offsets == [0, 3, 4] and not torch.equal(logits, core.logits(one.tokens(3), encoder_out))


# --- the error term -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_edits_are_not_masked_by_the_error(one: Twins, core: WhisperCore) -> None:
    mel, sae = one.mel(), Toy(32)
    _, clean = core.run_with_cache(mel, names=RESID)
    x = clean[RESID]
    f = sae.encode(x)

    def run(part: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
        return core.run_with_cache(mel, names=RESID, fwd_hooks=[(f"{RESID}.hook_sae_{part}", edit)])[1][RESID]

    with core.splice(sae, RESID, error_term=True):
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


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_term", [False, True])
@pytest.mark.parametrize("positions", [None, slice(3, 11)], ids=["everywhere", "span"])
def test_gradients_to_latents_are_finite_differences(one: Twins, error_term: bool, positions: slice | None) -> None:
    core, mel, tokens = one.core64, one.mel(dtype=torch.float64), one.tokens(3)
    sae = Toy(32)
    sae.enc, sae.dec, sae.bias = sae.enc.double(), sae.dec.double(), sae.bias.double()
    parts = ("acts_post", "recons", "output", *(["error"] if error_term else []))
    direction = torch.randn(1, 3, 67, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(logits: Tensor) -> Tensor:
        return (logits * direction).sum()

    def loss_with(name: str, added: Tensor) -> float:
        with torch.no_grad():
            return loss(core.run_with_hooks(mel, tokens, fwd_hooks=[(name, lambda x: x + added)])).item()

    with core.splice(sae, RESID, error_term=error_term, positions=positions):
        names = [f"{RESID}.hook_sae_{part}" for part in parts]
        out, cache = core.run_with_cache(mel, tokens, names=names, incl_bwd=True, loss_fn=loss)
        assert out is not None and all(p.grad is None for p in core.parameters())
        for name in names:
            # one step along the gradient and one along anything
            for along in (cache[f"{name}_grad"], noise(torch.zeros_like(cache[name]))):
                step = 1e-5 * along / along.norm()
                ends = [loss_with(name, sign * step) for sign in (1, -1)]
                slope = float((cache[f"{name}_grad"] * step).sum())
                assert (ends[0] - ends[1]) / 2 == pytest.approx(slope, rel=1e-5, abs=1e-12), name


def test_gradients_pass_through_the_dictionary_and_not_past_it(one: Twins, core: WhisperCore) -> None:
    point, sae = core.hook_dict[RESID], Toy(32)
    x = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    direction = noise(torch.zeros_like(x.detach()))
    (wanted,) = torch.autograd.grad(sae(x), x, direction)
    for error_term in (False, True):
        with core.splice(sae, RESID, error_term=error_term):
            (found,) = torch.autograd.grad(point(x), x, direction)
        torch.testing.assert_close(found, wanted)
        with core.splice(sae, RESID, error_term=error_term, positions=slice(3, 9)):
            (found,) = torch.autograd.grad(point(x), x, direction)
        torch.testing.assert_close(found[:, 3:9], wanted[:, 3:9])
        assert torch.equal(found[:, :3], direction[:, :3]) and torch.equal(found[:, 9:], direction[:, 9:])


def test_backward_hooks(one: Twins, core: WhisperCore) -> None:
    grads: dict[str, Tensor] = {}
    with core.splice(Toy(32), RESID, error_term=True):
        with core.hooks(bwd_hooks=[("*.hook_sae_*", lambda g, hook: grads.update({hook.name: g}))]):
            core(one.mel(), one.tokens(2)).square().sum().backward()
        core.zero_grad()
    assert [name.rsplit("_", 1)[1] for name in sorted(grads)] == ["post", "error", "input", "output", "recons"]
    assert torch.equal(grads[f"{RESID}.hook_sae_error"], grads[f"{RESID}.hook_sae_output"])


# --- places ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@given(data=st.data())
def test_elsewhere_the_activation_passes_unchanged(one: Twins, data: st.DataObject) -> None:
    core, mel, tokens = one.core, one.mel(2), one.tokens(4, 2)
    name = data.draw(st.sampled_from(POINTS[:-2]))
    point = core.hook_dict[name]
    rows = 1 if "batch" not in point.axes else data.draw(st.sampled_from([1, 2]))
    n = 4 if "token" in point.axes else 20
    seed = data.draw(st.integers(0, 99))
    mask = torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < data.draw(st.sampled_from([0, 0.5, 1]))
    error_term = data.draw(st.booleans())
    sae = Toy(width(core, name))
    _, clean = core.run_with_cache(mel, tokens, names=name)
    with core.splice(sae, name, positions=mask, error_term=error_term):
        parts = core.hook_names(f"{name}.hook_sae_*")
        _, cache = core.run_with_cache(mel, tokens, names=[name, *parts])
        bare = core(mel, tokens)
        for part in [*parts, "*.hook_sae_*"]:
            assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, same)]), bare)
    x, layout = clean[name], layouts(point, core.cfg)[0]
    at = mask if "batch" in point.axes else mask[0]
    if "frame" in point.axes:
        at = at.repeat_interleave(2, dim=-1)
    at = at.expand(*x.shape[: 2 if "batch" in point.axes else 1])
    vectors = layout.vectors(x)
    acts = cache[f"{name}.hook_sae_acts_post"]
    torch.testing.assert_close(acts, torch.where(at[..., None], sae.encode(vectors), torch.zeros(())))
    torch.testing.assert_close(
        layout.vectors(cache[f"{name}.hook_sae_recons"]), torch.where(at[..., None], sae(vectors), vectors)
    )
    assert torch.equal(layout.vectors(cache[name])[~at], vectors[~at])
    if error_term:
        assert torch.equal(cache[name], x)
        assert not layout.vectors(cache[f"{name}.hook_sae_error"])[~at].any()


@torch.no_grad()
def test_only_the_chosen_are_encoded(one: Twins, core: WhisperCore) -> None:
    sae = Toy(32)
    rows: list[int] = []
    encode = sae.encode
    with core.splice(sae, RESID, positions=slice(2, 7)):
        sae.encode = lambda x: rows.append(x.numel() // 32) or encode(x)  # type: ignore[method-assign]
        core(one.mel(3), one.tokens(2, 3))
    assert rows == [15]


@torch.no_grad()
@pytest.mark.parametrize("positions", [None, slice(2, 5), slice(5, None), "mask"])
@pytest.mark.parametrize("name", [TOKENS, "decoder.blocks.1.attn.hook_k", "decoder.blocks.0.cross_attn.hook_v"])
def test_generating_with_a_cache_equals_full_passes(odd: Twins, name: str, positions: object) -> None:
    core, encoder_out, tokens = odd.core, odd.core.embed_audio(odd.mel(2)), odd.tokens(8, 2)
    mask = torch.rand(2, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    with core.splice(Toy(96, seed=1), name, positions=mask if positions == "mask" else positions):
        whole = core.logits(tokens, encoder_out)
        cache = KVCache()
        steps = [core.decoder(part, encoder_out, cache) for part in tokens.split([3, 1, 1, 2, 1], dim=1)]
        acts = []
        with core.hooks([(f"{name}.hook_sae_acts_post", acts.append)]):
            core.decoder(tokens[:, :3], encoder_out, cache := KVCache())
            core.decoder(tokens[:, 3:4], encoder_out, cache)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)
    assert not torch.equal(whole, core.logits(tokens, encoder_out))
    assert [a.shape[1] for a in acts] == ([60] if "cross" in name else [3, 1])


@torch.no_grad()
def test_rows_of_a_mask(one: Twins, core: WhisperCore) -> None:
    """One row for all; one per clip; in the decoder, beams of a clip stand together."""
    encoder_out, tokens = core.embed_audio(one.mel(1)), one.tokens(4, 6)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    sae = Toy(32)
    with core.splice(sae, TOKENS, positions=mask):
        found = core.logits(tokens, encoder_out)
        with pytest.raises(PatchError, match=r"positions has 2 rows, but .* has 5"):
            core.logits(tokens[:5], encoder_out)
        with pytest.raises(PatchError, match=r"first 4 tokens .* number 4"):
            core.logits(one.tokens(5, 2), encoder_out)
    with core.splice(sae, TOKENS, positions=mask.repeat_interleave(3, 0)):
        assert torch.equal(core.logits(tokens, encoder_out), found)
    with core.splice(sae, RESID, positions=torch.ones(2, 20, dtype=torch.bool)):
        core.embed_audio(one.mel(2))
        with pytest.raises(PatchError, match=r"give one row per clip"):
            core.embed_audio(one.mel(4))


@pytest.mark.parametrize(
    ("name", "positions", "words"),
    [
        (RESID, slice(3, 21), "inside the 20"),
        (RESID, slice(-3, None), "inside the 20"),
        (RESID, slice(0, 10, 2), "is no span"),
        (TOKENS, slice(5, 3), "inside the 41"),
        (RESID, torch.ones(20, dtype=torch.bool), r"torch.bool \[20\]"),
        (RESID, torch.ones(1, 20), "torch.float32"),
        (RESID, [1, 2], r"not \[1, 2\]"),
        ("unembed.hook_in", slice(0, 3), "not given all tokens"),
    ],
)
def test_positions_that_are_none(core: WhisperCore, unchecked: None, name: str, positions: object, words: str) -> None:
    with pytest.raises(PatchError, match=words), core.splice(Toy(32), name, positions=positions):
        pass


# --- transcoders ----------------------------------------------------------------------------------------------------

MLP = ("decoder.blocks.0.hook_mlp_in", "decoder.blocks.0.hook_mlp_out")


@torch.no_grad()
@pytest.mark.parametrize("positions", [None, slice(1, 3)])
def test_transcoders_read_here_and_replace_there(one: Twins, core: WhisperCore, positions: slice | None) -> None:
    mel, tokens, sae = one.mel(2), one.tokens(4, 2), Skips(32, d_out=32)
    plain, clean = core.run_with_cache(mel, tokens, names=list(MLP))
    read = clean[MLP[0]]
    predicted = sae.decode_like(sae.encode(read), read)
    at = torch.ones(4, dtype=torch.bool) if positions is None else torch.isin(torch.arange(4), torch.tensor([1, 2]))
    predicted = torch.where(at[:, None], predicted, clean[MLP[1]])
    wanted = core.run_with_hooks(mel, tokens, fwd_hooks=[(MLP[1], lambda x: predicted)])
    for error_term, out in ((False, wanted), (True, plain)):
        with core.splice(sae, MLP[0], hook_out=MLP[1], error_term=error_term, positions=positions):
            names = core.hook_names()
            parts = [f"{MLP[0]}.hook_sae_{part}" for part in PARTS if error_term or part != "error"]
            assert names[names.index(MLP[0]) :][:3] == [MLP[0], *parts[:2]]
            assert names[names.index(MLP[1]) :][: len(parts) - 1] == [MLP[1], *parts[2:]]
            bare = core(mel, tokens)
            torch.testing.assert_close(bare, out)
            if error_term:
                assert torch.equal(bare, out)
            for part in parts:
                assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, same)]), bare)
                assert not torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, noise)]), bare), part
            _, cache = core.run_with_cache(mel, tokens, names=parts[1], return_type=None)
            torch.testing.assert_close(cache[parts[1]][:, at], sae.encode(read)[:, at])
            assert torch.equal(core(mel, tokens), bare)  # the pass that stopped left nothing
            with pytest.raises(HookedWhisperError, match=r"did not run before"):
                core.decoder.blocks[0].hook_mlp_out(clean[MLP[1]])
    assert torch.equal(core(mel, tokens), plain)


def test_transcoders_may_follow_each_other(one: Twins, core: WhisperCore) -> None:
    mel, tokens = one.mel(), one.tokens(3)
    a, b = ("encoder.blocks.0.hook_resid_pre", "encoder.blocks.0.hook_resid_mid"), (RESID, "encoder.hook_out")
    with ExitStack() as stack:
        for first, (hook, out) in enumerate((b, ("encoder.blocks.0.hook_resid_mid", RESID), a)):
            stack.enter_context(core.splice(Sized(32, d_out=32, seed=first), hook, hook_out=out))
        order: list[str] = []
        core.run_with_hooks(mel, tokens, fwd_hooks=[("*.hook_sae_*", lambda x, hook: order.append(hook.name))])
        assert order == core.hook_names("*.hook_sae_*") and len(order) == 12
        with pytest.raises(PatchError, match=r"spliced in already"), core.splice(Toy(32), RESID):
            pass


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sae", "kwargs", "error", "words"),
    [
        (Sized(31), {"hook": RESID}, PatchError, rf"{RESID} \[batch, position, d_model\] .* 32 wide.* d_in = 31"),
        (Toy(31), {"hook": RESID}, PatchError, r"32 wide.*mat1 and mat2"),
        (neurons(31), {"hook": RESID}, PatchError, "32 wide"),
        (Sized(8), {"hook": "encoder.blocks.0.attn.hook_z"}, PatchError, r"16 wide or 32 wide \(all heads\)"),
        (Toy(32), {"hook": "encoder.blocks.0.hook_resid_pots"}, UnknownHookError, "did you mean .*hook_resid_post"),
        (Toy(32), {"hook": "encoder.blocks.0.hook_*"}, PatchError, "names .* points"),
        (object(), {"hook": RESID}, PatchError, "needs encode"),
        (Sized(32, d_out=32), {"hook": RESID}, PatchError, "hook_out="),
        (Sized(32, d_out=30), {"hook": MLP[0], "hook_out": MLP[1]}, PatchError, "gives 30"),
        (Sized(32, d_out=32), {"hook": MLP[1], "hook_out": MLP[0]}, PatchError, "must come after"),
        (Sized(32, d_out=32), {"hook": RESID, "hook_out": MLP[1]}, PatchError, "gives 32 for each of"),
        (
            Sized(32, d_out=32),
            {"hook": RESID, "hook_out": "decoder.blocks.0.cross_attn.hook_k"},
            PatchError,
            "same stack",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    core: WhisperCore, unchecked: None, sae: object, kwargs: dict, error: type, words: str
) -> None:
    before = spliced(core)
    with pytest.raises(error, match=words), core.splice(sae, **kwargs):
        pass
    assert spliced(core) == before


def test_one_splice_at_a_point(core: WhisperCore) -> None:
    with core.splice(Toy(32), RESID):
        inside = spliced(core)
        for hook in ("encoder.blocks.0", f"{RESID}.hook_sae_recons"):
            with pytest.raises(PatchError, match=r"already|belongs to a splice"), core.splice(Toy(32), hook):
                pass
        with pytest.raises(PatchError, match=r"already"), core.splice(Sized(32, d_out=32), RESID, hook_out="encoder"):
            pass
        assert spliced(core) == inside


@pytest.mark.parametrize(
    ("encode", "words"),
    [
        (lambda x: x[..., :5], r"encode of the dictionary spliced in at .* gave \[1, 20, 5\], but \[1, 20, 12\]"),
        (lambda x: [x], "gave list"),
    ],
)
def test_a_dictionary_that_gives_something_else(one: Twins, core: WhisperCore, encode: Callable, words: str) -> None:
    sae = Sized(32)
    sae.encode = encode  # type: ignore[method-assign]
    with pytest.raises(PatchError, match=words), core.splice(sae, RESID):
        core(one.mel(), one.tokens(2))


def test_a_dictionary_that_fails_says_where(one: Twins, core: WhisperCore) -> None:
    sae = Sized(32)
    sae.dec = torch.zeros(3, 3)
    with pytest.raises(RuntimeError) as raised, core.splice(sae, RESID):
        core(one.mel(), one.tokens(2))
    assert raised.value.__notes__ == [
        f"raised in decode of the dictionary spliced in at {RESID} [batch, position, d_model]"
    ]


@torch.no_grad()
def test_a_point_of_its_own_may_be_named_as_its_output(one: Twins, core: WhisperCore) -> None:
    sae, mel = Sized(32, d_out=32), one.mel()  # says d_out, as transcoders do
    with core.splice(sae, RESID, hook_out="encoder.blocks.0"):
        found = core.embed_audio(mel)
    with core.hooks([(RESID, sae)]):
        assert torch.equal(core.embed_audio(mel), found)


# --- heads, dtypes ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_heads_together_or_each_alone(one: Twins, core: WhisperCore) -> None:
    z, mel = "encoder.blocks.0.attn.hook_z", one.mel(2)
    for sae, axes in ((Toy(32), ("batch", "position")), (Toy(16), ("batch", "position", "head"))):
        mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.5
        with core.splice(sae, z, positions=mask):
            _, cache = core.run_with_cache(mel, names=f"{z}*")
        assert cache.axes(f"{z}.hook_sae_acts_post") == (*axes, "d_sae")
        x = cache[f"{z}.hook_sae_input"]
        made = sae(x.flatten(2)).view_as(x) if len(axes) == 2 else sae(x)
        torch.testing.assert_close(cache[z], torch.where(mask[:, :, None, None], made, x))


@torch.no_grad()
def test_half_precision_goes_in_and_comes_out(one: Twins) -> None:
    core = copy.deepcopy(one.core).to(torch.bfloat16)
    sae, mel = Toy(32), one.mel(dtype=torch.bfloat16)
    plain = core(mel, one.tokens(3))
    for error_term in (False, True):
        with core.splice(sae, RESID, error_term=error_term, positions=slice(0, 15)):
            _, cache = core.run_with_cache(mel, one.tokens(3), names=f"{RESID}*")
            assert torch.equal(core(mel, one.tokens(3)), plain) is error_term
            assert core.embed_audio(mel).dtype == torch.bfloat16
        kinds = {name.rsplit(".hook_")[-1]: t.dtype for name, t in cache.items()}
        assert kinds.pop("sae_acts_post") == torch.float32 and set(kinds.values()) == {torch.bfloat16}


# --- nothing stays ----------------------------------------------------------------------------------------------------


class Planned(Exception):
    pass


def _raise(x: Tensor) -> None:
    raise Planned


SPLICES = st.sampled_from([RESID, MLP[0], TOKENS, "encoder.hook_out", "encoder.blocks.0.attn.hook_z", "bad", "wide"])
ACTIONS = st.recursive(
    st.sampled_from(["raise", "run", "failing run", "stopped run", "hook", "reset"]),
    lambda inner: st.tuples(SPLICES, st.booleans(), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@torch.no_grad()
@given(plan=st.lists(ACTIONS, min_size=1, max_size=3))
def test_leaving_takes_back_exactly_what_was_added(one: Twins, plan: list) -> None:
    core, mel, tokens = one.core, one.mel(), one.tokens(2)
    plain = core(mel, tokens)

    def perform(action: object) -> None:
        if action == "raise":
            raise Planned
        if action == "run":
            core(mel, tokens)
        elif action == "failing run":
            core.run_with_hooks(mel, tokens, fwd_hooks=[(core.hook_names()[-3], _raise)])
        elif action == "stopped run":
            core.run_with_cache(mel, tokens, names=core.hook_names()[7], return_type=None)
        elif action == "hook":
            core.run_with_hooks(mel, tokens, fwd_hooks=[("*", same)])
        elif action == "reset":
            core.reset_hooks()
        else:
            splice(*action)

    def splice(hook: str, error_term: bool, inner: list) -> None:
        before = spliced(core)
        sae = Sized(33 if hook == "wide" else 32, d_out=32 if hook == MLP[0] else None)
        out = MLP[1] if hook == MLP[0] else None
        try:
            with core.splice(sae, RESID if hook == "wide" else hook, error_term=error_term, hook_out=out):
                for action in inner:
                    perform(action)
        finally:
            assert spliced(core) == before

    before = spliced(core)
    try:
        for action in plan:
            perform(action)
    except (Planned, HookedWhisperError):
        pass
    assert spliced(core) == before and torch.equal(core(mel, tokens), plain)


@torch.no_grad()
@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_splices_are_left_in_any_order(one: Twins, core: WhisperCore, order: tuple[int, ...]) -> None:
    mel, tokens, before = one.mel(), one.tokens(3), spliced(core)
    given = [
        (Toy(32), {"hook": RESID}),
        (Toy(32), {"hook": TOKENS}),
        (Sized(32, d_out=32), dict(zip(("hook", "hook_out"), MLP, strict=True))),
    ]
    made = [core.splice(sae, **kwargs) for sae, kwargs in given]
    for one_splice in made:
        one_splice.__enter__()
    for position, k in enumerate(order):
        made[k].__exit__(None, None, None)
        with ExitStack() as stack:  # the same, nested anew on a copy
            fresh = copy.deepcopy(core)
            for left in order[position + 1 :]:
                stack.enter_context(fresh.splice(given[left][0], **given[left][1]))
            assert torch.equal(core(mel, tokens), fresh(mel, tokens))
            assert core.hook_names() == fresh.hook_names()
    assert spliced(core) == before


def test_copies_pickles_and_weights_know_nothing_of_it(one: Twins, core: WhisperCore) -> None:
    names, keys, plain = core.hook_names(), list(core.state_dict()), core(one.mel(), one.tokens(3))
    modules = [path for path, _ in core.named_modules()]
    with core.splice(Toy(32), RESID), core.splice(Sized(32, d_out=32), MLP[0], hook_out=MLP[1]):
        assert list(core.state_dict()) == keys and [path for path, _ in core.named_modules()] == modules
        copied, buffer = copy.deepcopy(core), io.BytesIO()
        torch.save(core, buffer)
        inside = core(one.mel(), one.tokens(3))
    buffer.seek(0)
    for model in (copied, torch.load(buffer, weights_only=False)):
        assert model.hook_names() == names and not listeners(model)
        assert torch.equal(model(one.mel(), one.tokens(3)), plain)
        with model.splice(Toy(32), RESID), model.splice(Sized(32, d_out=32), MLP[0], hook_out=MLP[1]):
            assert torch.equal(model(one.mel(), one.tokens(3)), inside)


def test_a_dropped_model_and_dictionary_die_at_once(one: Twins) -> None:
    model, mel, tokens, sae = copy.deepcopy(one.core), one.mel(), one.tokens(3), Toy(32)
    transcoder = Sized(32, d_out=32)
    with model.splice(sae, RESID, error_term=True), model.splice(transcoder, MLP[0], hook_out=MLP[1]):
        _, cache = model.run_with_cache(mel, tokens, incl_bwd=True, loss_fn=lambda logits: logits.sum())
        model.run_with_cache(mel, tokens, names=f"{MLP[0]}.hook_sae_acts_post", return_type=None)
    with pytest.raises(Planned), model.splice(sae, RESID):
        model.run_with_hooks(mel, tokens, fwd_hooks=[(f"{RESID}.hook_sae_recons", _raise)])
    gc.collect()
    gc.disable()
    try:
        dead = [weakref.ref(thing) for thing in (model, sae, transcoder, cache[f"{RESID}.hook_sae_acts_post"])]
        del model, sae, transcoder, cache
        assert [ref() for ref in dead] == [None] * 4
    finally:
        gc.enable()
