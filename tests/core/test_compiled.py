"""``torch.compile``: one graph while nobody listens, and hooks that are added later are seen."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("what", ["graphs", "hooks", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(what: str) -> None:
    worker = [sys.executable, "-m", "tests.core.compiled_worker", what]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
