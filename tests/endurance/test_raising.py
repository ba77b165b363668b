"""Whatever raises, wherever and whatever else is going on, nothing is left behind."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.model import local_window
from sae_lens_audio import TopK, TopKConfig
from tests.core.twins import Twins, listeners


class OnPurpose(BaseException):
    """Not even an Exception, as KeyboardInterrupt is not."""


ERRORS = (OnPurpose, KeyboardInterrupt, ValueError, MemoryError)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_is_left(one_block: Twins, data: st.DataObject) -> None:
    model, mel, tokens = one_block.core, one_block.mel(1), one_block.tokens(4)
    names = model.hook_names()
    with torch.no_grad():
        before = model(mel, tokens)
    error = data.draw(st.sampled_from(ERRORS))
    countdown = data.draw(st.integers(0, 6))
    count = 0

    def may_raise(*_: object) -> None:
        nonlocal count
        count += 1
        if count > countdown:
            raise error("on purpose")

    def rule(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        may_raise()
        return torch.ones(len(query), len(key), dtype=torch.bool)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        may_raise()
        return logits.square().mean()

    points = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=6, unique=True))
    where = data.draw(st.sampled_from(["run_with_hooks", "run_with_cache", "backward", "attach_sae"]))
    masks = data.draw(st.sampled_from([{}, {"encoder": rule}, {"decoder": rule, "encoder": local_window(2)}]))
    hooks = [(name, may_raise) for name in points]
    width = model.cfg.encoder.d_model
    with ExitStack() as stack:
        if data.draw(st.booleans()):  # hooks that existed before must stay
            handle = model.add_hook(names[3], lambda x: None)[0]
            stack.callback(handle.remove)
        installed = listeners(model)
        raised = None
        try:
            if where == "run_with_hooks":
                model.run_with_hooks(mel, tokens, fwd_hooks=hooks, attn_masks=masks)
            elif where == "run_with_cache":
                model.run_with_cache(
                    mel, tokens, names_filter=points, fwd_hooks=hooks, attn_masks=masks, stop_early=True
                )
            elif where == "backward":
                backward = [(name, may_raise) for name in points if not name.endswith(("hook_tokens", "hook_mel"))]
                with model.hooks(bwd_hooks=backward, attn_masks=masks):
                    model.run_with_cache(mel, tokens, names_filter="*.hook_resid_post", incl_bwd=True, loss_fn=loss)
            else:
                torch.manual_seed(0)
                with (
                    model.attach_sae("encoder.blocks.0", TopK(TopKConfig(width, 2 * width, k=3))),
                    model.hooks(hooks, attn_masks=masks),
                ):
                    model.run_with_cache(mel, tokens, stop_early=True, names_filter=points)
        except (*ERRORS, Exception) as found:
            raised = found
        # a hook's own error comes out as it is, not as one of ours that hides it
        assert raised is None or count <= countdown or isinstance(raised, error), raised
        assert listeners(model) == installed
        assert model.hook_names() == names
        assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(mel, tokens), before)
    assert not listeners(model)


@pytest.mark.parametrize("error", ERRORS)
def test_raising_reader_leaves_no_hooks(one_block: Twins, error: type[BaseException]) -> None:
    """As a disk that is full would, while activations are stored."""
    model, mel = one_block.core, one_block.mel(1)

    def fails(*_: object) -> None:
        raise error("on purpose")

    handle = model.hook_dict["encoder.hook_out"].add_reader(fails)
    with pytest.raises(error):
        model.run_with_cache(mel, names_filter="encoder.*.hook_z")
    handle.remove()
    assert not listeners(model)
