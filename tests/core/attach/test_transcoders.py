"""Transcoders read at one point and replace another."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.model import WhisperCore
from tests.core.attach.toys import (
    MLP,
    PARTS,
    RESID,
    Sized,
    Skips,
    Toy,
    noise,
    same,
)
from tests.core.twins import Twins


@torch.no_grad()
@pytest.mark.parametrize("positions", [None, slice(1, 3)])
def test_transcoders_read_here_and_replace_there(one_block: Twins, core: WhisperCore, positions: slice | None) -> None:
    mel, tokens, sae = one_block.mel(2), one_block.tokens(4, 2), Skips(32, d_out=32)
    plain, clean = core.run_with_cache(mel, tokens, names_filter=list(MLP))
    read = clean[MLP[0]]
    predicted = sae.decode_like(sae.encode(read), read)
    selected = (
        torch.ones(4, dtype=torch.bool) if positions is None else torch.isin(torch.arange(4), torch.tensor([1, 2]))
    )
    predicted = torch.where(selected[:, None], predicted, clean[MLP[1]])
    wanted = core.run_with_hooks(mel, tokens, fwd_hooks=[(MLP[1], lambda x: predicted)])
    for use_error_term, out in ((False, wanted), (True, plain)):
        with core.attach_sae(sae, MLP[0], hook_out=MLP[1], use_error_term=use_error_term, positions=positions):
            names = core.hook_names()
            parts = [f"{MLP[0]}.hook_sae_{part}" for part in PARTS if use_error_term or part != "error"]
            assert names[names.index(MLP[0]) :][:3] == [MLP[0], *parts[:2]]
            assert names[names.index(MLP[1]) :][: len(parts) - 1] == [MLP[1], *parts[2:]]
            bare = core(mel, tokens)
            torch.testing.assert_close(bare, out)
            if use_error_term:
                assert torch.equal(bare, out)
            for part in parts:
                assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, same)]), bare)
                assert not torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, noise)]), bare), part
            _, cache = core.run_with_cache(mel, tokens, names_filter=parts[1], stop_early=True)
            torch.testing.assert_close(cache[parts[1]][:, selected], sae.encode(read)[:, selected])
            assert torch.equal(core(mel, tokens), bare)  # the pass that stopped left nothing
            with pytest.raises(HookedWhisperError, match=r"did not run before"):
                core.decoder.blocks[0].hook_mlp_out(clean[MLP[1]])
    assert torch.equal(core(mel, tokens), plain)


def test_transcoders_may_follow_each_other(one_block: Twins, core: WhisperCore) -> None:
    mel, tokens = one_block.mel(), one_block.tokens(3)
    a, b = ("encoder.blocks.0.hook_resid_pre", "encoder.blocks.0.hook_resid_mid"), (RESID, "encoder.hook_out")
    with ExitStack() as stack:
        for first, (hook, out) in enumerate((b, ("encoder.blocks.0.hook_resid_mid", RESID), a)):
            stack.enter_context(core.attach_sae(Sized(32, d_out=32, seed=first), hook, hook_out=out))
        order: list[str] = []
        core.run_with_hooks(mel, tokens, fwd_hooks=[("*.hook_sae_*", lambda x, hook: order.append(hook.name))])
        assert order == core.hook_names("*.hook_sae_*") and len(order) == 12
        with pytest.raises(PatchError, match=r"already"), core.attach_sae(Toy(32), RESID):
            pass
