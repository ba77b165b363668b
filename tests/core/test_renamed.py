"""Old names keep working for one version, and warn."""

from __future__ import annotations

import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
import torch

from hooked_whisper import hooks
from hooked_whisper._support.renamed import RenamedWarning, renamed_arguments, renamed_names
from hooked_whisper.errors import ArgumentError
from tests.core.twins import Twins


def test_an_old_name_of_a_module_gives_the_new_object_and_warns():
    module = types.ModuleType("a_module")
    module.New = object()
    sys.modules["a_module"] = module
    find = renamed_names("a_module", {"Old": "New", "Error": "hooked_whisper.errors:ArgumentError"})
    with pytest.warns(RenamedWarning, match="New"):
        assert find("Old") is module.New
    with pytest.warns(RenamedWarning, match="ArgumentError"):
        assert find("Error") is ArgumentError
    with pytest.raises(AttributeError, match="Other"):
        find("Other")


def test_an_old_argument_is_passed_on_under_its_new_name():
    @renamed_arguments(names="names_filter")
    def function(*, names_filter=None):
        return names_filter

    with pytest.warns(RenamedWarning, match="names_filter"):
        assert function(names="a") == "a"
    assert function(names_filter="b") == "b"
    with pytest.raises(ArgumentError, match="both"):
        function(names="a", names_filter="b")


def test_the_keywords_of_version_0_1_give_the_same_cache(one_block: Twins, unchecked: None):
    core, mel, tokens = one_block.core, one_block.mel(), one_block.tokens(4)
    new = {"names_filter": "*.hook_resid_post", "pos_slice": slice(0, 5), "token_slice": -1}
    old = {"names_filter": "*.hook_resid_post", "positions": slice(0, 5), "tokens_slice": -1}
    logits, wanted = core.run_with_cache(mel, tokens, **new)
    with pytest.warns(RenamedWarning, match="pos_slice|token_slice"):
        _, cache = core.run_with_cache(mel, tokens, **old)
    assert list(cache) == list(wanted) and all(torch.equal(cache[name], wanted[name]) for name in wanted)
    for return_type, output in ((None, None), ("logits", logits)):
        again, _ = core.run_with_cache(mel, tokens, return_type=return_type, names_filter="*.hook_resid_post")
        assert again is output or torch.equal(again, output)
    assert list(core.run_with_cache(mel, names="encoder.hook_out")[1]) == ["encoder.hook_out"]
    with pytest.raises(ArgumentError, match="both"):
        core.run_with_cache(mel, names="encoder.hook_out", names_filter="encoder.hook_out")


@pytest.mark.parametrize(
    ("keyword", "answer"),
    [
        ("clear_contexts", "reset_hooks"),
        ("stop_at_layer", "stop_early"),
        ("return_cache_object", "ActivationCache"),
        ("prepend_bos", "to_tokens"),
        ("saes", "run_with_cache_with_saes"),
        ("use_error_term", "run_with_cache_with_saes"),
        ("remove_batch", "did you mean remove_batch_dim="),
    ],
)
def test_keywords_of_other_libraries_are_answered(one_block: Twins, unchecked: None, keyword: str, answer: str):
    with pytest.raises(ArgumentError, match=answer) as raised:
        one_block.core.run_with_cache(one_block.mel(), **{keyword: True})
    assert f"{keyword}=" in str(raised.value)


@pytest.mark.parametrize("name", ["HookedModule", "canonical_name", "watched"])
def test_names_that_moved_out_of_hooks(name: str):
    with pytest.warns(RenamedWarning, match=name):
        assert callable(getattr(hooks, name))


def test_the_default_of_return_labels_warns(one_block: Twins):
    _, cache = one_block.core.run_with_cache(one_block.mel(), one_block.tokens(3))
    for method in (cache.decompose_resid, cache.stack_head_results):
        with pytest.warns(RenamedWarning, match="return_labels"):
            parts, labels = method("decoder")
        assert len(parts) == len(labels) and torch.equal(method("decoder", return_labels=False), parts)
    with pytest.warns(RenamedWarning, match="pos_slice"):
        assert cache.accumulated_resid("decoder", pos=-1).shape[-2] == 1
    with pytest.raises(ArgumentError, match="has_batch_dim="):
        cache.logit_attrs(parts, 1, has_batch_dim=False)


NAMES = (Path(__file__).parents[1] / "data" / "names_0_1.txt").read_text().splitlines()


@pytest.mark.filterwarnings("ignore::hooked_whisper._support.renamed.RenamedWarning")
@pytest.mark.parametrize("package", sorted({line.split()[0] for line in NAMES}))
def test_every_public_name_of_version_0_1_still_works(package):
    names = [line.split()[1] for line in NAMES if line.split()[0] == package]
    assert [name for name in names if not hasattr(import_module(package), name)] == []
