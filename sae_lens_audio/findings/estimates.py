"""The least and the most favorable of several blocks' estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hooked_whisper.findings.core.finding import Estimate


def least(rows: Sequence[Mapping[str, Estimate]], name: str) -> Estimate:
    """Return the smallest estimate of a criterion; undefined ones last."""
    return min((row[name] for row in rows), key=lambda e: np.inf if e.value is None else e.value)


def most(rows: Sequence[Mapping[str, Estimate]], name: str) -> Estimate:
    """Return the largest estimate of a criterion; undefined ones last."""
    return max((row[name] for row in rows), key=lambda e: -np.inf if e.value is None else e.value)
