"""What does not fit is refused, with a sentence that says what does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper.errors import PatchError, UnknownHookError
from hooked_whisper.features.bases import axes as neurons
from hooked_whisper.model import WhisperCore
from tests.core.attach.toys import (
    MLP,
    RESID,
    Sized,
    Toy,
    attached_state,
)
from tests.core.twins import Twins

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
def test_mismatched_shapes_are_refused(
    core: WhisperCore, unchecked: None, sae: object, kwargs: dict, error: type, words: str
) -> None:
    before = attached_state(core)
    with pytest.raises(error, match=words), core.attach_sae(sae, **kwargs):
        pass
    assert attached_state(core) == before


def test_one_sae_at_a_point(core: WhisperCore) -> None:
    with core.attach_sae(Toy(32), RESID):
        inside = attached_state(core)
        for hook in ("encoder.blocks.0", f"{RESID}.hook_sae_recons"):
            with pytest.raises(PatchError, match=r"already|belongs to"), core.attach_sae(Toy(32), hook):
                pass
        with (
            pytest.raises(PatchError, match=r"already"),
            core.attach_sae(Sized(32, d_out=32), RESID, hook_out="encoder"),
        ):
            pass
        assert attached_state(core) == inside


@pytest.mark.parametrize(
    ("encode", "words"),
    [
        (lambda x: x[..., :5], r"encode of the SAE attached at .* gave \[1, 20, 5\], but \[1, 20, 12\]"),
        (lambda x: [x], "gave list"),
    ],
)
def test_sae_with_wrong_output_shape_is_an_error(
    one_block: Twins, core: WhisperCore, encode: Callable, words: str
) -> None:
    sae = Sized(32)
    sae.encode = encode  # type: ignore[method-assign]
    with pytest.raises(PatchError, match=words), core.attach_sae(sae, RESID):
        core(one_block.mel(), one_block.tokens(2))


def test_failing_sae_names_its_hook_point(one_block: Twins, core: WhisperCore) -> None:
    sae = Sized(32)
    sae.dec = torch.zeros(3, 3)
    with pytest.raises(RuntimeError) as raised, core.attach_sae(sae, RESID):
        core(one_block.mel(), one_block.tokens(2))
    assert raised.value.__notes__ == [f"raised in decode of the SAE attached at {RESID} [batch, position, d_model]"]


@torch.no_grad()
def test_module_point_can_be_named_as_its_output(one_block: Twins, core: WhisperCore) -> None:
    sae, mel = Sized(32, d_out=32), one_block.mel()  # says d_out, as transcoders do
    with core.attach_sae(sae, RESID, hook_out="encoder.blocks.0"):
        encoded = core.embed_audio(mel)
    with core.hooks([(RESID, sae)]):
        assert torch.equal(core.embed_audio(mel), encoded)


def test_the_names_of_version_0_1_warn(core: WhisperCore) -> None:
    sae = Toy(32)
    with pytest.warns(RenamedWarning, match="attach_sae"), core.splice(sae, RESID):
        assert f"{RESID}.hook_sae_output" in core.hook_dict
    with pytest.warns(RenamedWarning, match="use_error_term"), core.attach_sae(sae, RESID, error_term=True):
        assert f"{RESID}.hook_sae_error" in core.hook_dict
