"""Fit a line to the time of local windows against their width."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import linregress


@dataclass(frozen=True)
class Line:
    """milliseconds = start + slope * k. error: standard error of the slope. r2: share of the variance on the line."""

    widths: tuple[int, ...]
    ms: tuple[float, ...]
    start: float
    slope: float
    error: float
    r2: float

    def __str__(self) -> str:
        times = ", ".join(f"{k}: {ms:.0f}" for k, ms in zip(self.widths, self.ms, strict=True))
        return (
            f"Windows of k positions to either side, in ms: {times}. "
            f"On a line of {self.start:.0f} + ({self.slope:.3f} ± {self.error:.3f}) k, R² {self.r2:.3f}."
        )


def line_of(rows: Sequence[Mapping[str, Any]]) -> Line | None:
    """Return the fit to the rows of a case "... k=K ..." against "..., k=K'"; ``None`` if there are too few."""
    ms: dict[int, float] = {}
    for row in rows:
        mine, theirs = (re.search(r"k=(\d+)", row[key]) for key in ("case", "other"))
        if mine and theirs:
            ms |= {int(mine[1]): row["ours_ms"], int(theirs[1]): row["other_ms"]}
    if len(ms) < 3:
        return None
    widths = sorted(ms)
    fit = linregress(widths, [ms[k] for k in widths])
    numbers = (round(float(x), 4) for x in (fit.intercept, fit.slope, fit.stderr, fit.rvalue**2))
    return Line(tuple(widths), tuple(float(np.round(ms[k], 2)) for k in widths), *numbers)
