"""The phone evaluation needs bounded memory for any model, measured in a separate process."""

from __future__ import annotations

import subprocess
import sys

import pytest


def grown(*arguments: int, timeout: float = 300) -> float:
    """Return by how many GiB the process grew."""
    command = [sys.executable, "-m", "tests.findings.phone_memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_counts_of_all_features() -> None:
    """Dense counts of these 5 blocks take 1.5 GiB."""
    assert grown(5, 256, 14, 61, 1, 1) < 0.5


@pytest.mark.slow
def test_large_v3_in_two_gib() -> None:
    """32 blocks of 5,120 neurons and as many random directions: dense counts would take 157 GiB."""
    assert grown(32, 5120, 12, 61, 2, 0, timeout=3600) < 2
