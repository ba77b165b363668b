"""utils.get_act_name and cache keys: the same short names, and errors that say what to write."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked_whisper import HookedWhisper, utils
from hooked_whisper.errors import ArgumentError, UnknownHookError
from hooked_whisper.interventions import baseline_mel
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins


def test_every_name_inside_a_block_has_a_short_name(odd: Twins, core: WhisperCore) -> None:
    _, cache = core.run_with_cache(odd.mel(), odd.tokens(3), names_filter="*")
    for kind in ("q", "k", "v", "z", "pattern", "attn_scores", "result"):
        for stack in ("encoder", "decoder", "cross"):
            name = utils.get_act_name(kind, 1, stack)  # type: ignore[arg-type]
            assert name in core.hook_dict and cache[stack, kind, 1] is cache[name]
    for kind in ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "pre", "post", "mlp_in", "q_input"):
        for stack in ("encoder", "decoder"):
            name = utils.get_act_name(kind, 0, stack)  # type: ignore[arg-type]
            assert cache[stack, kind, 0] is cache[name]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("pattern", 3, "decoder"), "decoder.blocks.3.attn.hook_pattern"),
        (("pattern", 3, "cross"), "decoder.blocks.3.cross_attn.hook_pattern"),
        (("cross_pattern", 3, "decoder"), "decoder.blocks.3.cross_attn.hook_pattern"),
        (("v31", None, "encoder"), "encoder.blocks.31.attn.hook_v"),
        (("scale", 3, "decoder", "ln1"), "decoder.blocks.3.ln1.hook_scale"),
        (("scale4ln2", None, "encoder"), "encoder.blocks.4.ln2.hook_scale"),
        (("normalized", 0, "cross"), "decoder.blocks.0.ln_cross.hook_normalized"),
        (("scale", None, "decoder"), "decoder.ln_final.hook_scale"),
        (("scale", None, "encoder"), "encoder.ln_post.hook_scale"),
        (("attn", 0, "encoder"), "encoder.blocks.0.attn.hook_pattern"),
        (("embed", None, "decoder"), "decoder.hook_embed"),
        (("mel", None, "encoder"), "encoder.hook_mel"),
        (("encoder.blocks.0.hook_resid_post",), "encoder.blocks.0.hook_resid_post"),
    ],
    ids=str,
)
def test_get_act_name(arguments: tuple[Any, ...], name: str) -> None:
    assert utils.get_act_name(*arguments) == name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("v", 0), ArgumentError, r"needs a stack.*write get_act_name\('v', 0, 'decoder'\)"),
        (("scale", 3, "ln1"), ArgumentError, r"write get_act_name\('scale', 3, 'decoder', 'ln1'\)"),
        (("v", 0, "encode"), ArgumentError, "did you mean 'encoder'"),
        (("patern", 0, "encoder"), UnknownHookError, "did you mean encoder.blocks.0.attn.hook_pattern"),
        (("scale", 0, "encoder"), UnknownHookError, "add 'ln1', 'ln2' or 'ln_cross'"),
        (("cross_q", 0, "encoder"), UnknownHookError, "encoder.blocks.0.cross_attn.hook_q"),
        (("pattern", -1, "encoder"), ArgumentError, "0 or more, not -1"),
        (("pattern", None, "encoder"), ArgumentError, "give the number of one as layer="),
        (("embd", None, "decoder"), UnknownHookError, "did you mean decoder.hook_embed"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_name_says_what_to_write(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        utils.get_act_name(*arguments)


def test_a_name_of_one_stack_as_a_key(odd: Twins, core: WhisperCore) -> None:
    _, cache = core.run_with_cache(odd.mel())
    with pytest.raises(UnknownHookError, match=r"did you mean \('encoder', 'embed'\) or \('decoder', 'embed'\)"):
        cache["embed"]


# --- what a Whisper model does not have -------------------------------------------------------------------------------


def test_attributes_of_one_stack_name_both(core: WhisperCore) -> None:
    with pytest.raises(AttributeError, match=r"cfg\.encoder\.n_layers \(2\) or cfg\.decoder\.n_layers \(3\)"):
        getattr(core.cfg, "n_layers")  # noqa: B009
    for name in ("n_heads", "d_head", "d_mlp", "n_ctx"):
        with pytest.raises(AttributeError, match=rf"cfg\.encoder\.{name}"):
            getattr(core.cfg, name)
    with pytest.raises(AttributeError, match=r"model\.encoder\.blocks or model\.decoder\.blocks"):
        getattr(core, "blocks")  # noqa: B009
    for name in ("W_Q", "b_O", "QK", "OV"):
        with pytest.raises(AttributeError, match=rf"model\.encoder\.{name}.*model\.decoder\.cross\.{name}"):
            getattr(core, name)
    for name in ("W_in", "accumulated_bias"):
        with pytest.raises(AttributeError, match=rf"model\.encoder\.{name} or model\.decoder\.{name}"):
            getattr(core, name)
    for holder, name, answer in (
        (core, "set_use_attn_result", "not needed"),
        (core.unembed, "W_U", r"model\.W_U"),
        (core.cfg, "device", r"model\.device"),
        (utils, "get_corner", r"x\[:3, :3\]"),
        (core, "no_such", "has no attribute 'no_such'"),
        (core.cfg, "no_such", "WhisperConfig has no no_such$"),
    ):
        with pytest.raises(AttributeError, match=answer):
            getattr(holder, name)
    assert (core.cfg.d_model, core.cfg.d_vocab, core.cfg.model_name) == (96, 211, core.cfg.name)
    assert not hasattr(core, "blocks") and getattr(core.cfg, "n_layers", None) is None


@pytest.mark.usefixtures("unchecked")
def test_unknown_keywords_suggest_the_nearest(odd: Twins, core: WhisperCore) -> None:
    _, cache = core.run_with_cache(odd.mel(), odd.tokens(3))
    for call, message in (
        (lambda: core.run_with_cache(odd.mel(), remove_batch=True), r"did you mean remove_batch_dim=\?"),
        (lambda: core.run_with_cache(odd.mel(), name_filter="x"), r"did you mean names_filter=\?"),
        (lambda: core(odd.mel(), odd.tokens(3), returntype="loss"), r"did you mean return_type=\?"),
        (lambda: core(odd.mel(), odd.tokens(3), prepend_bos=True), r"to_tokens"),
        (lambda: core(odd.mel(), stop_at_layer=1), r"stop_early"),
        (lambda: cache.decompose_resid("decoder", apply_layernorm=True), r"has no argument apply_layernorm="),
        (lambda: cache.logit_attrs(torch.zeros(1), 3, batch_slice=0), r"cache\.slice"),
        (lambda: HookedWhisper.from_pretrained("demo", fold_layernorm=True), r"has no argument fold_layernorm="),
        (lambda: HookedWhisper.from_pretrained("demo", checkpoint_index=3), "published no checkpoints"),
    ):
        with pytest.raises(ArgumentError, match=message) as raised:
            call()
        assert isinstance(raised.value, TypeError)  # as for any unknown keyword


def test_a_prompt_is_tested_with_a_mel() -> None:
    model = HookedWhisper.from_pretrained("demo")
    with pytest.raises(ArgumentError, match=r"no mel.*model.to_mel\(audio\).*baseline_mel\(model, 'zero audio'\)"):
        utils.test_prompt(" the", " cat", model)
    silent = utils.test_prompt(" the", " cat", model, baseline_mel(model, "zero audio"))
    assert 0 < silent.answer[0].probability < 1
