"""The model, and a look at it after every test."""

from __future__ import annotations

import pytest

from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins, make_twins


@pytest.fixture
def core(one_block: Twins) -> WhisperCore:
    return one_block.core


@pytest.fixture(autouse=True)
def no_sae_left() -> object:
    yield
    for size in ("one_block", "odd"):
        core = make_twins(size).core
        assert all(point._replacement is None and point.site == name for name, point in core.hook_dict.items())
