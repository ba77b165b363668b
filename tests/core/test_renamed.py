"""Old names keep working for one version, and warn."""

from __future__ import annotations

import sys
import types

import pytest

from hooked_whisper._support.renamed import RenamedWarning, renamed_arguments, renamed_names
from hooked_whisper.errors import ArgumentError


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
