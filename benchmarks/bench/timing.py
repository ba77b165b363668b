"""Timing in turns: each implementation runs once per round, in changing order, so that other load affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.bench.cases import OURS, Case


@dataclass(frozen=True)
class Row:
    """Ours against one other implementation.

    ratio: median over rounds of the ratio of times. low, high: its quartiles. ours_gflop: our GFLOP, if counted.
    """

    case: str
    other: str
    ratio: float
    low: float
    high: float
    ours_ms: float
    other_ms: float
    target: float | None
    notes: str = ""
    ours_gflop: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio <= self.target

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


@torch.no_grad()
def take_turns(case: Case, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in case.work}
    for work in case.work.values():
        work()
    order = list(case.work)
    for turn in tqdm(range(rounds), desc=case.name, leave=False):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            start = time.perf_counter()
            result = case.work[name]()
            seconds[name].append(time.perf_counter() - start)
            del result
    return seconds


def compared(mine: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Return the median of the per-round ratios, with their quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(mine, theirs, strict=True)], n=4)
    return middle, low, high


def rows_of(
    case: Case, seconds: Mapping[str, list[float]], counted: Mapping[str, float | None] | None = None
) -> list[Row]:
    """Return one row per other implementation. The target applies to the fastest one that does the same work.

    counted: GFLOP by implementation."""
    counted = counted or {}
    named = [name for name in case.against if name in seconds]
    best = min(named, key=lambda name: statistics.median(seconds[name]))
    rows = []
    for other, theirs in seconds.items():
        if other != OURS:
            ratio = compared(seconds[OURS], theirs)
            ms = (1e3 * statistics.median(s) for s in (seconds[OURS], theirs))
            target = case.target if other == best else None
            rows.append(Row(case.name, other, *ratio, *ms, target, case.notes, counted.get(OURS)))
    return rows
