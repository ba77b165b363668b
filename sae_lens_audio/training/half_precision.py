"""Training with matrix products in half precision: autocast, and in float16 a scaled loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from sae_lens_audio.training.config import Precision

_LEAST_SCALE = 2.0**-14  # gradients that overflow even at this scale are not a matter of precision


class HalfPrecision:
    """The precision of one training run.

    Gradients below 6e-8 vanish in float16. So the loss is multiplied by a scale before the backward pass, and gradients
    are divided by it before the step. A step whose gradients overflow changes no weight, and halves the scale; 2,000
    steps without overflow double it. In float32 and bfloat16 nothing is scaled.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self._device, self._precision = device, precision
        self._scaler = self._new_scaler()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the loss is computed."""
        narrow = torch.float16 if self._precision == "float16" else torch.bfloat16
        return torch.autocast(self._device.type, narrow, enabled=self._precision != "float32")

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the summed gradients of a batch by the scale."""
        self._scaler.unscale_(optimizer)

    def norm(self, norm: Tensor) -> Tensor:
        """Return the norm of a gradient; 0 if it overflowed at a scale that will be halved: then no step is taken."""
        if not self._scaler.is_enabled() or self._scaler.get_scale() < _LEAST_SCALE:
            return norm
        return norm.nan_to_num(0.0, posinf=0.0)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights unless a gradient overflowed, and adapt the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def forget(self) -> None:
        """Forget a batch whose step is not taken."""
        state = self.state()
        self._scaler = self._new_scaler()
        self.load(state)

    def state(self) -> dict[str, Any]:
        """Return the scale as JSON values; empty if nothing is scaled."""
        return self._scaler.state_dict()

    def load(self, state: Mapping[str, Any] | None) -> None:
        if state:
            self._scaler.load_state_dict(dict(state))

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self._device.type, enabled=self._precision == "float16")
