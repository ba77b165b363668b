"""Leaving `attach_sae` removes exactly what it added."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import weakref
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.model import WhisperCore
from tests.core.attach.toys import (
    MLP,
    RESID,
    TOKENS,
    Sized,
    Toy,
    attached_state,
    same,
)
from tests.core.twins import Twins, listeners

# --- nothing stays ----------------------------------------------------------------------------------------------------


class Planned(Exception):
    pass


def _raise(x: Tensor) -> None:
    raise Planned


HOOKS = st.sampled_from([RESID, MLP[0], TOKENS, "encoder.hook_out", "encoder.blocks.0.attn.hook_z", "bad", "wide"])
ACTIONS = st.recursive(
    st.sampled_from(["raise", "run", "failing run", "stopped run", "hook", "reset"]),
    lambda inner: st.tuples(HOOKS, st.booleans(), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@torch.no_grad()
@given(plan=st.lists(ACTIONS, min_size=1, max_size=3))
def test_leaving_takes_back_exactly_what_was_added(one_block: Twins, plan: list) -> None:
    core, mel, tokens = one_block.core, one_block.mel(), one_block.tokens(2)
    plain = core(mel, tokens)

    def perform(action: object) -> None:
        if action == "raise":
            raise Planned
        if action == "run":
            core(mel, tokens)
        elif action == "failing run":
            core.run_with_hooks(mel, tokens, fwd_hooks=[(core.hook_names()[-3], _raise)])
        elif action == "stopped run":
            core.run_with_cache(mel, tokens, names_filter=core.hook_names()[7], stop_early=True)
        elif action == "hook":
            core.run_with_hooks(mel, tokens, fwd_hooks=[("*", same)])
        elif action == "reset":
            core.reset_hooks()
        else:
            attach(*action)

    def attach(hook: str, use_error_term: bool, inner: list) -> None:
        before = attached_state(core)
        sae = Sized(33 if hook == "wide" else 32, d_out=32 if hook == MLP[0] else None)
        out = MLP[1] if hook == MLP[0] else None
        try:
            with core.attach_sae(sae, RESID if hook == "wide" else hook, use_error_term=use_error_term, hook_out=out):
                for action in inner:
                    perform(action)
        finally:
            assert attached_state(core) == before

    before = attached_state(core)
    try:
        for action in plan:
            perform(action)
    except (Planned, HookedWhisperError):
        pass
    assert attached_state(core) == before and torch.equal(core(mel, tokens), plain)


@torch.no_grad()
@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_saes_are_detached_in_any_order(one_block: Twins, core: WhisperCore, order: tuple[int, ...]) -> None:
    mel, tokens, before = one_block.mel(), one_block.tokens(3), attached_state(core)
    attachments = [
        (Toy(32), {"hook": RESID}),
        (Toy(32), {"hook": TOKENS}),
        (Sized(32, d_out=32), dict(zip(("hook", "hook_out"), MLP, strict=True))),
    ]
    contexts = [core.attach_sae(sae, **kwargs) for sae, kwargs in attachments]
    for context in contexts:
        context.__enter__()
    for position, k in enumerate(order):
        contexts[k].__exit__(None, None, None)
        with ExitStack() as stack:  # the same, nested anew on a copy
            fresh = copy.deepcopy(core)
            for left in order[position + 1 :]:
                stack.enter_context(fresh.attach_sae(attachments[left][0], **attachments[left][1]))
            assert torch.equal(core(mel, tokens), fresh(mel, tokens))
            assert core.hook_names() == fresh.hook_names()
    assert attached_state(core) == before


def test_copies_pickles_and_weights_exclude_the_sae(one_block: Twins, core: WhisperCore) -> None:
    names, keys, plain = core.hook_names(), list(core.state_dict()), core(one_block.mel(), one_block.tokens(3))
    modules = [path for path, _ in core.named_modules()]
    with core.attach_sae(Toy(32), RESID), core.attach_sae(Sized(32, d_out=32), MLP[0], hook_out=MLP[1]):
        assert list(core.state_dict()) == keys and [path for path, _ in core.named_modules()] == modules
        copied, buffer = copy.deepcopy(core), io.BytesIO()
        torch.save(core, buffer)
        inside = core(one_block.mel(), one_block.tokens(3))
    buffer.seek(0)
    for model in (copied, torch.load(buffer, weights_only=False)):
        assert model.hook_names() == names and not listeners(model)
        assert torch.equal(model(one_block.mel(), one_block.tokens(3)), plain)
        with model.attach_sae(Toy(32), RESID), model.attach_sae(Sized(32, d_out=32), MLP[0], hook_out=MLP[1]):
            assert torch.equal(model(one_block.mel(), one_block.tokens(3)), inside)


def test_a_dropped_model_and_sae_die_at_once(one_block: Twins) -> None:
    model, mel, tokens, sae = copy.deepcopy(one_block.core), one_block.mel(), one_block.tokens(3), Toy(32)
    transcoder = Sized(32, d_out=32)
    with model.attach_sae(sae, RESID, use_error_term=True), model.attach_sae(transcoder, MLP[0], hook_out=MLP[1]):
        _, cache = model.run_with_cache(mel, tokens, incl_bwd=True, loss_fn=lambda logits: logits.sum())
        model.run_with_cache(mel, tokens, names_filter=f"{MLP[0]}.hook_sae_acts_post", stop_early=True)
    with pytest.raises(Planned), model.attach_sae(sae, RESID):
        model.run_with_hooks(mel, tokens, fwd_hooks=[(f"{RESID}.hook_sae_recons", _raise)])
    gc.collect()
    gc.disable()
    try:
        dead = [weakref.ref(thing) for thing in (model, sae, transcoder, cache[f"{RESID}.hook_sae_acts_post"])]
        del model, sae, transcoder, cache
        assert [ref() for ref in dead] == [None] * 4
    finally:
        gc.enable()
