"""Every test of the core leaves the shared models as it found them; many use the model of odd sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hooked_whisper.hooks import ActivationCache
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins, listeners, make_twins


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    for size in ("one_block", "odd"):
        core = make_twins(size).core
        assert not listeners(core), f"hooks or masks left on the shared {size!r} model"
        assert all(p.grad is None for p in core.parameters()), f"gradients left on the shared {size!r} model"


@pytest.fixture
def core(odd: Twins) -> WhisperCore:
    return odd.core


@pytest.fixture(scope="module")
def cache(odd: Twins) -> ActivationCache:
    return odd.core.run_with_cache(odd.mel(2), odd.tokens(5, 2), names_filter="*")[1]
