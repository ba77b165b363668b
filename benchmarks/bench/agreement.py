"""Nobody is timed who does other work: what everybody keeps is compared first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.bench.cases import OURS, Case


@torch.no_grad()
def check(case: Case, tolerance: float = 1e-4) -> None:
    """Raises ``AssertionError``, saying who differs."""
    names = [name for name in case.same if name in case.work]
    if not names:
        return
    mine = tensors(case.work[OURS]())
    for name in names:
        theirs = tensors(case.work[name]())
        assert len(mine) == len(theirs), f"{case.name}: {name} keeps {len(theirs)} tensors, ours {len(mine)}"
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                other, one, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{case.name}, {name}: {text}"
            )


def tensors(kept: Any) -> list[Tensor]:
    """The activations in what was kept; a module that returns several things has its activation first."""
    if isinstance(kept, Tensor):
        return [kept]
    if hasattr(kept, "values"):
        kept = list(kept.values())
    return [one if isinstance(one, Tensor) else one[0] for one in kept]
