"""What may be written for a hook point, and what an unknown name says."""

from __future__ import annotations

import re

import pytest
import torch

from hooked_whisper.errors import HookedWhisperError, UnknownHookError
from hooked_whisper.hooks import resolve_names
from hooked_whisper.model import WhisperCore, canonical_name
from hooked_whisper.model.names import is_per_clip
from tests.core.twins import Twins

SCORES = [
    "encoder.blocks.0.attn.hook_attn_scores",
    "encoder.blocks.1.attn.hook_attn_scores",
    *(f"decoder.blocks.{i}.{attn}.hook_attn_scores" for i in range(3) for attn in ("attn", "cross_attn")),
]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("encoder.blocks.9.hook_q", "the encoder has blocks 0 to 1"),
        ("decoder.blocks.3.*", "the decoder has blocks 0 to 2"),
    ],
)
def test_a_block_that_does_not_exist_is_answered_with_the_blocks_of_the_stack(core, name: str, blocks: str) -> None:
    with pytest.raises(UnknownHookError, match=blocks):
        core.add_perma_hook(name, lambda x: x)
    _, few = core.run_with_cache(torch.zeros(1, 128, 120), names_filter="encoder.blocks.1.hook_resid_post")
    with pytest.raises(UnknownHookError, match="the encoder has blocks 0 to 1; did you mean"):
        few["encoder.blocks.9.hook_resid_post"]


@pytest.mark.parametrize(
    "names",
    [
        "*.hook_attn_scores",
        re.compile(r"attn_scores$"),
        lambda name: name.endswith("scores"),
        SCORES[::-1],
        tuple(SCORES),
        iter(SCORES),
        ["encoder.*scores", re.compile("decoder.*scores"), SCORES[3]],
    ],
    ids=["glob", "regex", "predicate", "list in any order", "tuple", "iterator", "mixed, twice"],
)
def test_every_way_to_name_points(core: WhisperCore, names: object) -> None:
    """Found points come in order of execution, each once."""
    assert core.hook_names(names) == SCORES


def test_globs_know_character_classes_and_question_marks(core: WhisperCore) -> None:
    assert core.hook_names("decoder.blocks.[02].hook_mlp_out") == [f"decoder.blocks.{i}.hook_mlp_out" for i in (0, 2)]
    assert core.hook_names("encoder.blocks.?.hook_mlp_out") == [f"encoder.blocks.{i}.hook_mlp_out" for i in (0, 1)]


ALIASES = {
    "encoder.blocks.1.mlp.1": "encoder.blocks.1.mlp.hook_post",
    "encoder.blocks.1.mlp.0": "encoder.blocks.1.mlp.hook_pre",
    "encoder.blocks.1.mlp.2": "encoder.blocks.1.hook_mlp_out",
    "encoder.blocks.1.mlp": "encoder.blocks.1.hook_mlp_out",
    "encoder.blocks.1": "encoder.blocks.1.hook_resid_post",
    "decoder.blocks.2": "decoder.blocks.2.hook_resid_post",
    "decoder.blocks.2.attn": "decoder.blocks.2.hook_attn_out",
    "decoder.blocks.2.cross_attn": "decoder.blocks.2.hook_cross_attn_out",
    "encoder.conv1": "encoder.conv1.hook_pre",
    "encoder.ln_post": "encoder.hook_out",
    "encoder": "encoder.hook_out",
    "decoder.token_embedding": "decoder.hook_embed",
    "decoder.ln": "unembed.hook_in",
    "decoder": "unembed.hook_out",
    "decoder.unembed.hook_in": "unembed.hook_in",
}


@pytest.mark.parametrize("alias", ALIASES)
def test_published_module_names_are_the_tensors_of_those_modules(odd: Twins, alias: str) -> None:
    """The alias stands for what that module of openai-whisper gives out."""
    assert odd.core.hook_names(alias) == [canonical_name(alias)] == [ALIASES[alias]]
    if alias == "decoder.unembed.hook_in":  # our own path
        return
    outputs: list[torch.Tensor] = []
    module = odd.openai.get_submodule(alias)
    handle = module.register_forward_hook(
        lambda m, args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        odd.openai(odd.mel(), odd.tokens(3))
        _, cache = odd.core.run_with_cache(odd.mel(), odd.tokens(3), names_filter=alias)
    handle.remove()
    theirs = outputs[0].mT if alias == "encoder.conv1" else outputs[0]
    assert torch.allclose(cache[alias], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("typo", "near"),
    [
        ("encoder.block.1.hook_resid_post", "encoder.blocks.1.hook_resid_post"),
        ("encoder.blocks.1.hook_resid_pots", "encoder.blocks.1.hook_resid_post"),
        ("Decoder.Blocks.2.cross_attn.hook_patern", "decoder.blocks.2.cross_attn.hook_pattern"),
        ("encoder.blocks.2.hook_mlp_out", "encoder.blocks.1.hook_mlp_out"),
        ("decoder.blocks.*.hook_patern", "decoder.blocks."),
    ],
)
def test_a_typo_gets_the_closest_names(core: WhisperCore, typo: str, near: str) -> None:
    with pytest.raises(UnknownHookError) as raised:
        core.hook_names(typo)
    assert repr(typo) in str(raised.value) and near in str(raised.value)


def test_one_unknown_name_in_a_list_is_refused(core: WhisperCore) -> None:
    for names in (["encoder.hook_out", "encoder.hook_ot"], ["encoder.hook_out", "*.nothing"]):
        with pytest.raises(UnknownHookError):
            core.add_hook(names, print)
        with pytest.raises(UnknownHookError):
            core.run_with_cache(names_filter=names, mel=torch.zeros(1, 128, 120))
    assert core.list_hooks() == {}


def test_patterns_that_match_nothing_say_what_they_were(core: WhisperCore) -> None:
    def nowhere(name: str) -> bool:
        return False

    with pytest.raises(UnknownHookError, match="regular expression 'xyz'"):
        core.hook_names(re.compile("xyz"))
    with pytest.raises(UnknownHookError, match="predicate 'nowhere'"):
        core.hook_names(nowhere)


def test_other_types_are_refused(unchecked: None) -> None:
    with pytest.raises(HookedWhisperError, match="not int"):
        resolve_names([3], ["encoder.hook_out"])
    with pytest.raises(KeyError):  # also the builtin that fits
        resolve_names("encoder.hook_in", ["encoder.hook_out"])


def test_facts_of_names_without_a_model_are_those_of_the_points(core: WhisperCore) -> None:
    points = core.hook_dict
    assert {name for name in points if is_per_clip(name)} == {name for name, point in points.items() if point.per_clip}
    assert all(canonical_name(alias) == name for alias, name in core.hook_aliases.items())
    assert not is_per_clip("encoder.nothing")
