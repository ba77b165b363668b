"""The jobs: their whole amount, the part that each side runs, and what both must agree in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Result = Mapping[str, Any]
Work = Callable[[Any, Path, int], dict[str, Any]]
Side = Literal["ours", "obvious"]
SIDES: tuple[Side, ...] = ("ours", "obvious")
Size = Literal["quick", "quarter", "full"]


@dataclass(frozen=True)
class Job:
    """One job of a day.

    Attributes:
        title: the whole job. whole: its amount, in ``unit``.
        amounts: for each size, the amounts that we and the obvious script run; times are scaled to ``whole``.
        agree: raises AssertionError if the results differ, and otherwise says in what they agree.
        least: the smallest ratio of times that is worth a project.
    """

    name: str
    title: str
    unit: str
    whole: int
    amounts: Mapping[Size, tuple[int, int]]
    agree: Callable[[Result, Result], str]
    least: float = 3.0

    def amount(self, size: Size, side: Side) -> int:
        return self.amounts[size][SIDES.index(side)]

    def work(self, side: Side) -> Work:
        """Import one side only, so that the other's libraries are not in its memory."""
        if side == "ours":
            from benchmarks.day import ours, ours_findings

            work: Work = {
                "patch": ours.patches,
                "scan": ours.scanned,
                "sae": ours.sae,
                "pages": ours.pages,
                "transcribe": ours.transcribed,
                "findings": ours_findings.run,
            }[self.name]
            return work
        from importlib import import_module

        obvious: Work = import_module(f"benchmarks.day.obvious_{self.name}").run
        return obvious


def same_values(ours: Result, obvious: Result) -> str:
    n = min(len(ours["values"]), len(obvious["values"]))
    for mine, theirs in zip(ours["values"][:n], obvious["values"][:n], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-3)
    return f"{sum(map(len, obvious['values'][:n]))} patches within 0.002 logits"


def same_largest(ours: Result, obvious: Result) -> str:
    """Compare the largest activations. With other amounts of speech only their order can be checked."""
    mine, theirs = (np.array(result["largest"], float) for result in (ours, obvious))
    mine = mine[:, : theirs.shape[1]]  # fewer windows than examples leave ours empty at the end
    if ours["amount"] == obvious["amount"] or ours["job"] == "pages":
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
        return f"largest activations of {len(mine)} neurons within 0.001"
    assert (mine >= theirs - 1e-3).all(), "an example of the smaller part is missing in the larger one"
    return f"examples of {len(mine)} neurons at least as large, on more speech"


def same_texts(ours: Result, obvious: Result) -> str:
    n = min(len(ours["texts"]), len(obvious["texts"]))
    equal = sum(a == b for a, b in zip(ours["texts"][:n], obvious["texts"][:n], strict=True))
    assert equal >= 0.98 * n, f"{equal} of {n} texts are the same"
    return f"{equal} of {n} texts are the same"


def same_values_and_texts(ours: Result, obvious: Result) -> str:
    n = len(obvious["values"])
    np.testing.assert_allclose(ours["values"][:n], obvious["values"], atol=1)
    return f"{same_texts(ours, obvious)}, {n} distances of relevance within a position"


def as_well_explained(ours: Result, obvious: Result) -> str:
    mine, theirs = ours["explained"], obvious["explained"]
    assert mine >= theirs - 0.05, f"explained variance: {mine:.3f} ours, {theirs:.3f} obvious"
    return f"explained variance {mine:.3f} ours, {theirs:.3f} obvious"


JOBS = {
    job.name: job
    for job in (
        Job(
            "patch",
            "word-swap patching: encoder blocks at the word, decoder blocks by token, cross-attention heads",
            "pairs",
            100,
            {"quick": (1, 1), "quarter": (25, 2), "full": (50, 3)},
            same_values,
        ),
        Job(
            "scan",
            "largest activations of the neurons of one block over an hour",
            "windows of 30 s",
            120,
            {"quick": (3, 3), "quarter": (30, 30), "full": (120, 60)},
            same_largest,
        ),
        Job(
            "sae",
            "a TopK SAE (8x, k 32) on an hour, activations included",
            "windows of 30 s",
            120,
            {"quick": (4, 4), "quarter": (30, 8), "full": (120, 16)},
            as_well_explained,
        ),
        Job(
            "pages",
            "pages with sound and plots of 10 examples or more for each neuron, from 10 minutes",
            "units",
            500,
            {"quick": (4, 2), "quarter": (125, 5), "full": (500, 10)},
            same_largest,
        ),
        Job(
            "transcribe",
            "a folder of short files",
            "files",
            100,
            {"quick": (2, 2), "quarter": (25, 25), "full": (100, 50)},
            same_texts,
        ),
        Job(
            "findings",
            "F1 to F4: relevance, 7 windows, windows in local heads, every word cut out",
            "files",
            100,
            {"quick": (2, 1), "quarter": (16, 4), "full": (32, 6)},
            same_values_and_texts,
        ),
    )
}
