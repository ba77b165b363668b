"""Whether torch traces, transforms or differentiates the current computation.

Private torch symbols are used only here and in :mod:`hooked_whisper.model.kernels`.
"""

from __future__ import annotations

import torch


def transformed() -> bool:
    """Whether torch.compile, torch.func, or forward-mode differentiation is at work."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )
