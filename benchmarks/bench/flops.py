"""Count the FLOPs of a task while it runs; a multiply-add is two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _fused(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Count fused attention from its shapes, since torch does so on GPUs only. Masked entries count, as on GPUs."""
    return sdpa_flop_count(query, key, value)


_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused}


class _OneModule:
    """Counts per module would need hooks on all of them, and ours then takes no shortcuts."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@torch.no_grad()
def gflop(work: Callable[[], object]) -> float | None:
    """Return the GFLOP of matrix products, attention and convolutions; ``None`` if none are visible (compiled code).

    Norms, activation functions and sums are left out, since memory bandwidth limits them. The counter cannot see oneDNN
    products, but under a dispatch mode ``hooked_whisper.model.kernels`` uses torch's, with the same number of FLOPs.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ON_CPU)
    counter.mod_tracker = _OneModule()
    with counter:
        work()
    return round(counter.get_total_flops() / 1e9, 3) or None
