"""run_with_cache: what is kept, how much of the model runs, gradients, limits."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from hooked_whisper.errors import ArgumentError, CacheSizeError, HookedWhisperError, MaskError, UnknownHookError
from hooked_whisper.model import WhisperCore, local_window
from tests.core.twins import Twins


def test_encoder_alone(odd: Twins, core: WhisperCore) -> None:
    out, cache = core.run_with_cache(odd.mel(2))
    assert torch.equal(out, core.embed_audio(odd.mel(2)))
    assert {name.split(".")[0] for name in cache} == {"encoder"}
    assert torch.equal(cache["encoder.hook_out"], out)


def test_an_invalid_device_is_named(odd: Twins, core: WhisperCore) -> None:
    with pytest.raises(ArgumentError, match=r"device .*'gpu'"):
        core.run_with_cache(odd.mel(), device="gpu")


def test_decoder_alone(odd: Twins, core: WhisperCore) -> None:
    encoder_out = core.embed_audio(odd.mel())
    logits, cache = core.run_with_cache(tokens=odd.tokens(5, 2), encoder_out=encoder_out)
    # the default keeps the decoder's patterns, so its attention is written out
    assert torch.allclose(logits, core.logits(odd.tokens(5, 2), encoder_out), atol=1e-4)
    assert {name.split(".")[0] for name in cache} == {"decoder", "unembed"}
    assert cache["decoder", "cross_pattern", 0].shape == (2, 3, 5, 60)
    assert cache["decoder", "cross_k", 0].shape[0] == 1  # made once, for the one clip


def test_the_default_leaves_out_what_is_large_or_optional(odd: Twins, core: WhisperCore) -> None:
    _, cache = core.run_with_cache(odd.mel(), odd.tokens(3))
    left_out = set(core.hook_names()) - set(cache)
    optional = {name for name, point in core.hook_dict.items() if point.optional}
    bulky = set(core.hook_names(re.compile(r"^encoder.*(attn_scores|pattern)$")))
    assert left_out == optional | bulky and bulky
    assert list(cache) == core.default_cache_names()


def test_names_of_every_kind_and_of_the_stack_that_runs(odd: Twins, core: WhisperCore) -> None:
    both = [f"{stack}.blocks.{i}.hook_resid_pre" for stack, n in (("encoder", 2), ("decoder", 3)) for i in range(n)]
    for names in ("*.hook_resid_pre", re.compile("resid_pre"), lambda n: "resid_pre" in n, ["*.hook_resid_pre"]):
        assert list(core.run_with_cache(odd.mel(), odd.tokens(3), names_filter=names)[1]) == both
        assert list(core.run_with_cache(odd.mel(), names_filter=names)[1]) == both[:2]
    for names in ("unembed.hook_in", ["encoder.hook_out", "unembed.*"], re.compile("^decoder")):
        with pytest.raises(ValueError, match=r"would not run in this pass: give tokens"):
            core.run_with_cache(odd.mel(), names_filter=names)
    with pytest.raises(ValueError, match="give mel instead of encoder_out"):
        core.run_with_cache(
            tokens=odd.tokens(2), encoder_out=core.embed_audio(odd.mel()), names_filter="encoder.hook_out"
        )


@pytest.mark.parametrize(
    ("last", "blocks_run"),
    [
        ("encoder.conv1.hook_post", []),
        ("encoder.blocks.0.hook_resid_post", ["encoder.0"]),
        ("encoder.blocks.1.ln1.hook_normalized", ["encoder.0", "encoder.1"]),
        ("encoder.hook_out", ["encoder.0", "encoder.1"]),
        ("decoder.blocks.0.cross_attn.hook_pattern", ["encoder.0", "encoder.1", "decoder.0"]),
    ],
)
def test_the_pass_stops_after_the_last_requested_point(
    odd: Twins, core: WhisperCore, last: str, blocks_run: list[str]
) -> None:
    entered: list[str] = []
    finished: list[str] = []
    handles = []
    for stack in ("encoder", "decoder"):
        for i, block in enumerate(getattr(core, stack).blocks):
            name = f"{stack}.{i}"
            handles.append(block.register_forward_pre_hook(lambda *_, name=name: entered.append(name)))
    handles.append(core.decoder.unembed.register_forward_hook(lambda *_: finished.append("unembed")))
    try:
        out, cache = core.run_with_cache(
            odd.mel(), odd.tokens(3), names_filter=["encoder.hook_mel", last], stop_early=True
        )
    finally:
        for handle in handles:
            handle.remove()
    assert out is None and list(cache) == ["encoder.hook_mel", last]
    assert (entered, finished) == (blocks_run, [])


def test_an_early_stop_keeps_what_the_whole_pass_keeps(odd: Twins, core: WhisperCore) -> None:
    name = "decoder.blocks.1.hook_resid_mid"
    _, early = core.run_with_cache(odd.mel(), odd.tokens(3), names_filter=name, stop_early=True)
    logits, whole = core.run_with_cache(odd.mel(), odd.tokens(3), names_filter=name)
    assert torch.equal(early[name], whole[name]) and torch.equal(logits, core(odd.mel(), odd.tokens(3)))


def test_cuts_of_positions_and_tokens(odd: Twins, core: WhisperCore) -> None:
    mel, tokens = odd.mel(2), odd.tokens(6, 2)
    _, whole = core.run_with_cache(mel, tokens, names_filter="*")
    for pos_slice, token_slice in (
        (slice(10, 40, 3), slice(1, -1)),
        (7, -1),
        ([3, 1, -1], [0, 2]),
        (None, slice(0, 0)),
    ):
        _, cache = core.run_with_cache(mel, tokens, names_filter="*", pos_slice=pos_slice, token_slice=token_slice)
        for name, wanted in whole.items():
            cuts = {"position": pos_slice, "token": token_slice}
            cuts["query"] = cuts["position" if name.startswith("encoder") else "token"]
            for dim, axis in enumerate(whole.axes(name)):
                cut = cuts.get(axis)
                if cut is not None:
                    wanted = wanted[(slice(None),) * dim + ([cut] if isinstance(cut, int) else cut,)]
            assert torch.equal(cache[name], wanted), name
    with pytest.raises(HookedWhisperError, match=r"no token 6 of decoder\.hook_embed"):
        core.run_with_cache(mel, tokens, names_filter="decoder.hook_embed", token_slice=[6])


def test_a_cut_does_not_hold_the_whole_tensor(odd: Twins, core: WhisperCore) -> None:
    _, cache = core.run_with_cache(odd.mel(), names_filter="*.hook_resid_*", pos_slice=slice(0, 2))
    assert cache.nbytes == sum(t.numel() * 4 for t in cache.values())


def test_device_and_dtype_of_what_is_kept(odd: Twins, core: WhisperCore) -> None:
    logits, cache = core.run_with_cache(odd.mel(), odd.tokens(3), dtype=torch.float16)
    assert logits.dtype == torch.float32
    assert {t.dtype for name, t in cache.items() if name != "decoder.hook_tokens"} == {torch.float16}
    assert cache["decoder.hook_tokens"].dtype == torch.int64
    _, cache = core.run_with_cache(odd.mel(), odd.tokens(3), device="meta")
    assert {t.device.type for t in cache.values()} == {"meta"}


def test_hooks_and_masks_of_the_pass(odd: Twins, core: WhisperCore) -> None:
    """The cache holds what hooks left behind, and nothing stays on the model."""
    name = "encoder.blocks.0.hook_mlp_out"
    _, cache = core.run_with_cache(
        odd.mel(),
        names_filter=[name, "encoder.blocks.*.attn.hook_pattern"],
        fwd_hooks=[(name, torch.zeros_like)],
        attn_masks={"encoder": local_window(2)},
    )
    far = (torch.arange(60)[:, None] - torch.arange(60)).abs() > 2
    assert not cache[name].any()
    assert all(not cache["encoder", "pattern", i][..., far].any() for i in range(2))
    assert core.list_hooks() == {} and not any(attn.masks for attn in core.attention_modules().values())
    for bad in ({"fwd_hooks": [("nothing", print)]}, {"attn_masks": {"nothing": local_window(2)}}):
        with pytest.raises((UnknownHookError, MaskError)):
            core.run_with_cache(odd.mel(), **bad)


def test_cached_inputs_and_outputs_are_copies(odd: Twins, core: WhisperCore) -> None:
    """The caller also holds them, and may edit them later."""
    mel, tokens = odd.mel(), odd.tokens(3)
    logits, cache = core.run_with_cache(mel, tokens)
    copies = {name: cache[name].clone() for name in cache}
    for theirs in (mel, tokens, logits.detach()):
        theirs.zero_()
    assert all(torch.equal(cache[name], copies[name]) for name in cache)
    cache["encoder.hook_pos_embed"].zero_()
    cache["decoder.hook_pos_embed"].zero_()
    assert core.encoder.positional_embedding.any() and core.decoder.positional_embedding.any()


# --- gradients ---------------------------------------------------------------------------------------------------


def loss(logits: Tensor) -> Tensor:
    return (logits.log_softmax(-1)[..., 7] * torch.arange(1, 6)).sum()


def test_gradients_flow_through_an_attached_cache(odd: Twins, core: WhisperCore) -> None:
    mel = odd.mel().requires_grad_()
    _, cache = core.run_with_cache(mel, odd.tokens(5), detach=False)
    logits = cache["unembed.hook_out"]
    floats = [name for name in cache if cache[name].requires_grad]
    # everything but the tokens and the encoder's constant positions
    assert set(cache) - set(floats) == {"decoder.hook_tokens", "encoder.hook_pos_embed"}
    grads = torch.autograd.grad(loss(logits), [cache[name] for name in floats])
    assert all(grad.any() for grad in grads)
    _, detached = core.run_with_cache(mel, odd.tokens(5))
    assert not any(t.requires_grad for t in detached.values())


def test_kept_gradients_are_those_of_autograd(odd: Twins, core: WhisperCore) -> None:
    """Every point's own gradient: as of a zero that is added there."""
    mel, tokens = odd.mel().requires_grad_(), odd.tokens(5)
    names = [n for n in core.hook_names() if n != "decoder.hook_tokens"]
    _, cache = core.run_with_cache(mel, tokens, names_filter=names, incl_bwd=True, loss_fn=loss)
    leaves: dict[str, Tensor] = {}

    def add_leaf(x: Tensor, hook: object) -> Tensor:
        leaves[hook.name] = torch.zeros_like(x, requires_grad=True)
        return x + leaves[hook.name]

    with_leaves = core.run_with_hooks(mel, tokens, fwd_hooks=[(names, add_leaf)])
    for name, wanted in zip(leaves, torch.autograd.grad(loss(with_leaves), list(leaves.values())), strict=True):
        if name == "encoder.hook_pos_embed":  # a constant has no gradient
            assert f"{name}_grad" not in cache
            continue
        assert torch.allclose(cache[f"{name}_grad"], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), name


def test_keeping_gradients_touches_no_grad(odd: Twins, core: WhisperCore) -> None:
    weight = core.encoder.blocks[0].mlp.up.weight
    weight.grad = torch.ones_like(weight)
    mel = odd.mel().requires_grad_()
    try:
        core.run_with_cache(mel, odd.tokens(5), incl_bwd=True, loss_fn=loss, token_slice=slice(0, 2))
        assert torch.equal(weight.grad, torch.ones_like(weight))
        assert mel.grad is None and core.decoder.positional_embedding.grad is None
    finally:
        weight.grad = None


def test_contradictory_requests_are_refused(odd: Twins, core: WhisperCore, unchecked: None) -> None:
    mel, tokens = odd.mel(), odd.tokens(5)
    encoder_out = core.embed_audio(mel)
    for kwargs, words in (
        ({}, "either mel or encoder_out"),
        ({"mel": mel, "encoder_out": encoder_out}, "either mel or encoder_out"),
        ({"encoder_out": encoder_out}, "give tokens too"),
        ({"mel": mel, "incl_bwd": True}, "incl_bwd needs one loss"),
        ({"mel": mel, "incl_bwd": True, "loss_fn": loss, "stop_early": True}, "incl_bwd needs one loss"),
        ({"mel": mel, "incl_bwd": True, "loss_fn": lambda out: out}, "one number"),
        ({"mel": mel, "incl_bwd": True, "loss_fn": lambda out: 3.0}, "one number"),
    ):
        with pytest.raises(ValueError, match=words):
            core.run_with_cache(**kwargs)
    with torch.no_grad(), pytest.raises(HookedWhisperError, match="loss has no gradient"):
        core.run_with_cache(mel, tokens, incl_bwd=True, loss_fn=loss)
    assert core.list_hooks() == {}


# --- memory ------------------------------------------------------------------------------------------------------


def test_request_that_exceeds_memory_explains_the_remedy(odd: Twins, core: WhisperCore) -> None:
    calls: list[int] = []
    with core.hooks([("encoder.hook_mel", lambda x: calls.append(1))]), pytest.raises(CacheSizeError) as raised:
        core.run_with_cache(odd.mel(), odd.tokens(5), names_filter="*", max_bytes=1000)
    message = str(raised.value)
    assert not calls  # refused before anything ran
    assert re.search(r"\d\.\d GiB", message) and "encoder.conv1.hook_pre" not in message
    for remedy in ("names_filter=", "pos_slice=", "token_slice=", "dtype=torch.float16", "max_bytes="):
        assert remedy in message
    assert isinstance(raised.value, MemoryError)


@pytest.mark.parametrize("kwargs", [{}, {"pos_slice": slice(0, 7)}, {"token_slice": [0, 1]}, {"dtype": torch.float16}])
def test_size_estimate_equals_the_size(odd: Twins, core: WhisperCore, kwargs: dict) -> None:
    """Also where one clip serves many rows of tokens."""
    names = [name for name in core.hook_names() if name != "decoder.hook_tokens"]  # int64: twice the width
    for mel, tokens in ((odd.mel(2), odd.tokens(5, 2)), (odd.mel(1), odd.tokens(5, 4))):
        _, cache = core.run_with_cache(mel, tokens, names_filter=names, **kwargs)
        size = sum(t.numel() * t.element_size() for t in cache.values())
        core.run_with_cache(mel, tokens, names_filter=names, max_bytes=size, **kwargs)
        with pytest.raises(CacheSizeError):
            core.run_with_cache(mel, tokens, names_filter=names, max_bytes=size - 1, **kwargs)


def test_large_models_are_refused_by_default_where_patterns_would_fill_memory() -> None:
    from hooked_whisper.config import RELEASED

    with torch.device("meta"):
        model = WhisperCore(RELEASED["large-v3"])
    mel = torch.empty(1, 128, 3000, device="meta")
    with pytest.raises(CacheSizeError, match=r"encoder.blocks.\d+.attn.hook_(attn_scores|pattern)"):
        model.run_with_cache(mel, names_filter="encoder.*")
