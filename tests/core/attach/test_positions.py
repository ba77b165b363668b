"""SAEs attached at some positions: nothing changes elsewhere, also with a key-value cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import PatchError
from hooked_whisper.hooks.attach_layout import layouts
from hooked_whisper.model import KVCache, WhisperCore
from tests.core.attach.toys import (
    POINTS,
    RESID,
    TOKENS,
    Toy,
    same,
    width,
)
from tests.core.twins import Twins

# --- places ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@given(data=st.data())
def test_other_positions_are_unchanged(one_block: Twins, data: st.DataObject) -> None:
    core, mel, tokens = one_block.core, one_block.mel(2), one_block.tokens(4, 2)
    name = data.draw(st.sampled_from(POINTS[:-2]))
    point = core.hook_dict[name]
    rows = 1 if "batch" not in point.axes else data.draw(st.sampled_from([1, 2]))
    n = 4 if "token" in point.axes else 20
    seed = data.draw(st.integers(0, 99))
    mask = torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < data.draw(st.sampled_from([0, 0.5, 1]))
    use_error_term = data.draw(st.booleans())
    sae = Toy(width(core, name))
    _, clean = core.run_with_cache(mel, tokens, names_filter=name)
    with core.attach_sae(sae, name, positions=mask, use_error_term=use_error_term):
        parts = core.hook_names(f"{name}.hook_sae_*")
        _, cache = core.run_with_cache(mel, tokens, names_filter=[name, *parts])
        bare = core(mel, tokens)
        for part in [*parts, "*.hook_sae_*"]:
            assert torch.equal(core.run_with_hooks(mel, tokens, fwd_hooks=[(part, same)]), bare)
    x, layout = clean[name], layouts(point)[0]
    selected = mask if "batch" in point.axes else mask[0]
    if "frame" in point.axes:
        selected = selected.repeat_interleave(2, dim=-1)
    selected = selected.expand(*x.shape[: 2 if "batch" in point.axes else 1])
    vectors = layout.vectors(x)
    acts = cache[f"{name}.hook_sae_acts_post"]
    torch.testing.assert_close(acts, torch.where(selected[..., None], sae.encode(vectors), torch.zeros(())))
    torch.testing.assert_close(
        layout.vectors(cache[f"{name}.hook_sae_recons"]), torch.where(selected[..., None], sae(vectors), vectors)
    )
    assert torch.equal(layout.vectors(cache[name])[~selected], vectors[~selected])
    if use_error_term:
        assert torch.equal(cache[name], x)
        assert not layout.vectors(cache[f"{name}.hook_sae_error"])[~selected].any()


@torch.no_grad()
def test_only_the_chosen_are_encoded(one_block: Twins, core: WhisperCore) -> None:
    sae = Toy(32)
    rows: list[int] = []
    encode = sae.encode
    with core.attach_sae(sae, RESID, positions=slice(2, 7)):
        sae.encode = lambda x: rows.append(x.numel() // 32) or encode(x)  # type: ignore[method-assign]
        core(one_block.mel(3), one_block.tokens(2, 3))
    assert rows == [15]


@torch.no_grad()
@pytest.mark.parametrize("positions", [None, slice(2, 5), slice(5, None), "mask"])
@pytest.mark.parametrize("name", [TOKENS, "decoder.blocks.1.attn.hook_k", "decoder.blocks.0.cross_attn.hook_v"])
def test_generating_with_a_cache_equals_full_passes(odd: Twins, name: str, positions: object) -> None:
    core, encoder_out, tokens = odd.core, odd.core.embed_audio(odd.mel(2)), odd.tokens(8, 2)
    mask = torch.rand(2, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    with core.attach_sae(Toy(96, seed=1), name, positions=mask if positions == "mask" else positions):
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
def test_rows_of_a_mask(one_block: Twins, core: WhisperCore) -> None:
    """One row for all; one per clip; in the decoder, beams of a clip stand together."""
    encoder_out, tokens = core.embed_audio(one_block.mel(1)), one_block.tokens(4, 6)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    sae = Toy(32)
    with core.attach_sae(sae, TOKENS, positions=mask):
        logits = core.logits(tokens, encoder_out)
        with pytest.raises(PatchError, match=r"positions has 2 rows, but .* has 5"):
            core.logits(tokens[:5], encoder_out)
        with pytest.raises(PatchError, match=r"first 4 tokens .* number 4"):
            core.logits(one_block.tokens(5, 2), encoder_out)
    with core.attach_sae(sae, TOKENS, positions=mask.repeat_interleave(3, 0)):
        assert torch.equal(core.logits(tokens, encoder_out), logits)
    with core.attach_sae(sae, RESID, positions=torch.ones(2, 20, dtype=torch.bool)):
        core.embed_audio(one_block.mel(2))
        with pytest.raises(PatchError, match=r"give one row per clip"):
            core.embed_audio(one_block.mel(4))


@pytest.mark.parametrize(
    ("name", "positions", "words"),
    [
        (RESID, slice(3, 21), "inside the 20"),
        (RESID, slice(-21, None), "inside the 20"),
        (RESID, torch.ones(19, dtype=torch.bool), "19 were given, there are 20"),
        (RESID, torch.ones(1, 20), "torch.float32"),
        (RESID, [1, 20], "there is no position 20"),
        ("unembed.hook_in", slice(0, 3), "not given all tokens"),
    ],
)
def test_invalid_positions_are_refused(
    core: WhisperCore, unchecked: None, name: str, positions: object, words: str
) -> None:
    with pytest.raises(PatchError, match=words), core.attach_sae(Toy(32), name, positions=positions):
        pass
