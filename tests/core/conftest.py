"""Every test of the core leaves the shared models as it found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.twins import listeners, make_twins


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    for size in ("one_block", "odd"):
        core = make_twins(size).core
        assert not listeners(core), f"hooks or masks left on the shared {size!r} model"
        assert all(p.grad is None for p in core.parameters()), f"gradients left on the shared {size!r} model"
