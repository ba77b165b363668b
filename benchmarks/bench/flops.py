"""Arithmetic of a piece of work, counted as it is done: two operations for each product with its sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _fused(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """torch counts fused attention on GPUs only. Shapes; what a mask hides is counted, as on GPUs."""
    return sdpa_flop_count(query, key, value)


_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused}


@torch.no_grad()
def gflop(work: Callable[[], object]) -> float | None:
    """Of products, attention and convolutions; ``None`` where nothing is seen (compiled code hides what it does).

    Norms, activation functions and sums are left out: they are bound by memory. Products of oneDNN are not seen, but
    ``hooked_whisper.model.kernels`` takes torch's own while a mode like this watches, which do the same arithmetic.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
        work()
    return round(counter.get_total_flops() / 1e9, 3) or None
