"""Adding and removing hooks: what they get, what they may return, what is left behind (nothing)."""

from __future__ import annotations

import copy
import functools
import gc
import io
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError, HookShapeError
from hooked_whisper.hooks import HookHandle, HookPoint
from hooked_whisper.model import KVCache, WhisperCore, local_window
from tests.core.twins import Twins, listeners, make_twins

POINT = "decoder.blocks.0.hook_mlp_out"


@pytest.fixture
def core(one_block: Twins) -> WhisperCore:
    return one_block.core


def run(one_block: Twins, *hooks: object, names: str = POINT) -> Tensor:
    return one_block.core.run_with_hooks(
        one_block.mel(), one_block.tokens(4), fwd_hooks=[(names, hook) for hook in hooks]
    )


class Doubler:
    """A hook that is an object; the second call takes the point."""

    def __call__(self, x: Tensor, hook: HookPoint) -> Tensor:
        assert hook.name == POINT
        return 2 * x


def with_more(x: Tensor, hook: HookPoint, factor: float) -> Tensor:
    return factor * x


SIGNATURES = {
    "(t)": lambda t: 2 * t,
    "(t, hook)": lambda t, hook: 2 * t,
    "(t, any name)": lambda t, point: 2 * t * bool(point.name),
    "(t, *, hook)": lambda t, *, hook: 2 * t * bool(hook.name),
    "(t, hook, /)": lambda t, hook, /: 2 * t * bool(hook.name),
    "(t, default)": lambda t, factor=2: factor * t,
    "(t, hook, default)": lambda t, hook, factor=2: factor * t * bool(hook.name),
    "(*args)": lambda *args: 2 * args[0],
    "(t, **kwargs)": lambda t, **kwargs: 2 * t,
    "partial": functools.partial(with_more, factor=2.0),
    "object": Doubler(),
    "bound method": Doubler().__call__,
    "builtin": functools.partial(torch.mul, 2),
    "module": torch.nn.Threshold(-1e9, 0.0),
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_signatures(one_block: Twins, signature: str) -> None:
    hook = SIGNATURES[signature]
    wanted = run(one_block) if signature == "module" else run(one_block, lambda x: x.mul_(2))
    assert torch.equal(run(one_block, hook), wanted)


def test_hooks_run_in_the_order_they_were_added_or_first(one_block: Twins, core: WhisperCore) -> None:
    order: list[str] = []
    handles = core.add_hook(POINT, lambda x: order.append("a"))
    handles += core.add_hook(POINT, lambda x: order.append("b"))
    handles += core.add_hook(POINT, lambda x: order.append("first"), prepend=True)
    with core.hooks([(POINT, lambda x: order.append("inner"))]):
        run(one_block, lambda x: order.append("innermost"))
    assert order == ["first", "a", "b", "inner", "innermost"]
    for handle in (*handles, *handles):  # twice does no harm
        handle.remove()
    assert core.list_hooks() == {}


def test_the_next_hook_gets_what_the_last_returned_but_not_its_tensor(one_block: Twins) -> None:
    held = torch.ones(1, 4, 32)
    seen: list[Tensor] = []
    run(one_block, lambda x: held, lambda x: x.mul_(3), seen.append)
    assert torch.equal(seen[0], torch.full_like(held, 3)) and torch.equal(held, torch.ones_like(held))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: x[:, :1], "shape (1, 1, 32), but (1, 4, 32)"),
        (lambda x: x[0], "shape (4, 32)"),
        (lambda x: x.double(), "dtype torch.float64, but torch.float32"),
        (lambda x: x.to("meta"), "device meta, but cpu"),
        (lambda x: 0.0, "returned float"),
        (lambda x: (x,), "returned tuple"),
    ],
)
def test_unsuitable_sae_is_refused(one_block: Twins, returned: object, words: str) -> None:
    with pytest.raises(HookShapeError) as raised:
        run(one_block, returned)
    assert words in str(raised.value)
    assert f"{POINT} [batch, token, d_model]" in str(raised.value)


def test_an_exception_keeps_its_type_and_says_where(one_block: Twins, core: WhisperCore) -> None:
    class Mine(RuntimeError):
        pass

    def fail(x: Tensor) -> None:
        raise Mine("no")

    with pytest.raises(Mine, match="no") as raised:
        run(one_block, fail)
    assert raised.value.__notes__ == [f"raised in a hook at {POINT} [batch, token, d_model]"]
    assert core.list_hooks() == {}


def test_invalid_requests_are_refused_at_once(core: WhisperCore, unchecked: None) -> None:
    with pytest.raises(TypeError, match="must be callable"):
        core.add_hook(POINT, 3)
    with pytest.raises(ValueError, match="'fwd' or 'bwd'"):
        core.add_hook(POINT, print, dir="both")
    with pytest.raises(ValueError, match="gone before backward"):
        core.run_with_hooks(bwd_hooks=[(POINT, print)])
    with pytest.raises(HookedWhisperError, match="not inside a block"):
        core.hook_dict["encoder.hook_out"].layer()
    assert core.hook_dict[POINT].layer() == 0 and core.hook_dict[POINT].stack == "decoder"


# --- contexts ---------------------------------------------------------------------------------------------------------


class Planned(Exception):
    pass


def _raise(x: Tensor) -> None:
    raise Planned


ACTIONS = st.recursive(
    st.sampled_from(["raise", "add", "run", "failing run", "bad name", "bad mask"]),
    lambda inner: st.tuples(st.sampled_from(["hooks", "masks", "both", "cached run"]), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@given(plan=st.lists(ACTIONS, min_size=1, max_size=3))
def test_leaving_takes_back_exactly_what_was_added(one_block: Twins, plan: list) -> None:
    """Any nesting of contexts and runs, with exceptions anywhere."""
    core, mel, tokens = one_block.core, one_block.mel(), one_block.tokens(3)
    by_hand: list[HookHandle] = []

    def perform(action: object) -> None:
        if action == "raise":
            raise Planned
        if action == "add":
            by_hand.extend(core.add_hook("*.hook_z", lambda x: None))
        elif action == "run":
            core(mel, tokens)
        elif action == "failing run":
            core.run_with_cache(mel, tokens, fwd_hooks=[("unembed.hook_in", _raise)])
        elif action == "bad name":
            core.run_with_hooks(mel, tokens, fwd_hooks=[(POINT, print), ("no.such.hook", print)])
        elif action == "bad mask":
            core.run_with_hooks(mel, tokens, attn_masks={"encoder": local_window(3), "nowhere": local_window(3)})
        else:
            nest(*action)

    def nest(kind: str, inner: list) -> None:
        before, n_by_hand = listeners(core), len(by_hand)
        try:
            if kind == "cached run":
                # the rest happens while the pass runs, once
                todo = [inner]
                meanwhile = ("encoder.hook_out", lambda x: perform_all(todo.pop() if todo else []))
                core.run_with_cache(mel, tokens, fwd_hooks=[meanwhile])
            else:
                hooks = [] if kind == "masks" else [("*", lambda x: None)]
                masks = {} if kind == "hooks" else {"encoder": local_window(3)}
                with core.hooks(hooks, attn_masks=masks):
                    perform_all(inner)
        finally:
            while len(by_hand) > n_by_hand:
                by_hand.pop().remove()
            assert listeners(core) == before, kind

    def perform_all(actions: list) -> None:
        for action in actions:
            perform(action)

    before = listeners(core)
    try:
        perform_all(plan)
    except (Planned, HookedWhisperError):
        pass
    finally:
        for handle in by_hand:
            handle.remove()
    assert listeners(core) == before


def test_reset_hooks_removes_everything(one_block: Twins) -> None:
    core = copy.deepcopy(one_block.core)
    core.add_hook("*", lambda x: None)
    core.add_hook(POINT, lambda x: None, dir="bwd")
    core.add_attn_masks({"encoder": local_window(2)})
    core.hook_dict[POINT].ctx["kept"] = 1
    assert core.list_hooks(POINT) == {POINT: 2}
    core.reset_hooks()
    assert core.list_hooks() == {} and core.hook_dict[POINT].ctx == {}
    assert torch.equal(core(one_block.mel(), one_block.tokens(3)), one_block.core(one_block.mel(), one_block.tokens(3)))


def test_a_hook_may_remove_itself(one_block: Twins, core: WhisperCore) -> None:
    calls: list[int] = []

    def once(x: Tensor) -> None:
        calls.append(1)
        handle.remove()

    (handle,) = core.add_hook(POINT, once)
    run(one_block)
    run(one_block)
    assert len(calls) == 1


# --- copies, memory, global state -------------------------------------------------------------------------------------


def test_copies_and_pickles_carry_no_hooks(one_block: Twins) -> None:
    with one_block.core.hooks(
        [("*", lambda x: torch.zeros_like(x))], attn_masks={"encoder": lambda q, k: q[:, None] < 0}
    ):
        copied = copy.deepcopy(one_block.core)
        buffer = io.BytesIO()
        torch.save(one_block.core, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    plain = one_block.core(one_block.mel(), one_block.tokens(3))
    for model in (copied, loaded):
        assert not listeners(model)
        assert model.hook_names() == one_block.core.hook_names()
        assert torch.equal(model(one_block.mel(), one_block.tokens(3)), plain)
        # points and clocks of the copy are its own
        edited = model.run_with_hooks(one_block.mel(), one_block.tokens(3), fwd_hooks=[(POINT, torch.zeros_like)])
        assert not torch.equal(edited, plain)
        model.decoder(one_block.tokens(2), model.embed_audio(one_block.mel()), kv := KVCache())
        model.decoder(one_block.tokens(1), model.embed_audio(one_block.mel()), kv)
        assert model.hook_dict[POINT].offset == 2 and one_block.core.hook_dict[POINT].offset == 0


def test_a_dropped_model_dies_at_once() -> None:
    """No reference cycle: memory comes back without waiting for the garbage collector."""
    twins = make_twins("one_block")
    model, mel, tokens = copy.deepcopy(twins.core), twins.mel(), twins.tokens(3)
    with model.hooks([("*", lambda x: x * 1)], attn_masks={"decoder": local_window(1)}):
        model(mel, tokens)
    _, early = model.run_with_cache(mel, tokens, names_filter=POINT, stop_early=True)
    _, cache = model.run_with_cache(mel, tokens, incl_bwd=True, loss_fn=lambda logits: logits.sum())
    with pytest.raises(Planned):
        model.run_with_hooks(mel, tokens, fwd_hooks=[(POINT, _raise)])
    gc.collect()
    gc.disable()
    try:
        dead, tensor = weakref.ref(model), weakref.ref(cache[POINT])
        del model
        assert dead() is None
        del cache
        assert tensor() is None
    finally:
        gc.enable()
    with pytest.raises(HookedWhisperError, match="no longer exists"):
        _ = early.model


def test_global_state_stays(one_block: Twins) -> None:
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state()
    one_block.core.run_with_cache(one_block.mel(), one_block.tokens(3), names_filter="*", dtype=torch.float16)
    with pytest.raises(Planned):
        run(one_block, _raise)
    after = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
