"""Check that all implementations of a case return the same activations, before they are timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.bench.cases import OURS, Case


@torch.no_grad()
def check(case: Case, tolerance: float = 1e-4) -> None:
    """Check one case.

    Raises:
        AssertionError: an implementation differs from ours; names it.
    """
    names = [name for name in case.same if name in case.work]
    if not names:
        return
    mine = tensors(case.work[OURS]())
    for name in names:
        theirs = tensors(case.work[name]())
        assert len(mine) == len(theirs), f"{case.name}: {name} keeps {len(theirs)} tensors, ours {len(mine)}"
        for output, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                other,
                output,
                atol=tolerance,
                rtol=tolerance,
                msg=lambda text, name=name: f"{case.name}, {name}: {text}",
            )


def tensors(outputs: Any) -> list[Tensor]:
    """Return the activations of an output. If a module returns several things, its activation is the first."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if hasattr(outputs, "values"):
        outputs = list(outputs.values())
    return [output if isinstance(output, Tensor) else output[0] for output in outputs]
