"""Base of the scan accumulators: save, load and merge their tensors.

The result of an accumulator does not depend on the order of the windows, nor on how they were divided among
accumulators that were merged. A scan by several processes is therefore exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import CheckpointError


@dataclass(frozen=True)
class WindowFeatures:
    """Features at the positions of one window of one recording.

    Attributes:
        x: feature activations.
        recording: index in the corpus.
        first: index of the first position, counted from the start of the recording.
        priority: sampling priority of each position.
    """

    x: Float[Tensor, "position feature"]
    recording: int
    first: int
    priority: Int[Tensor, "position"]


class Accumulator:
    """Accumulates window after window. The attributes named in ``saved`` are its complete state."""

    saved: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.saved}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved state.

        Raises:
            CheckpointError: a tensor is missing, or has another shape or dtype.
        """
        for name, current in self.state().items():
            if name not in state or state[name].shape != current.shape or state[name].dtype != current.dtype:
                shape = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointError(f"the checkpoint has {shape} as {name}, expected {tuple(current.shape)}")
            setattr(self, name, state[name].to(current.device, copy=True))

    def merge(self, other: Any) -> None:
        """Add the counts of ``other``, which has the same options and saw other recordings."""
        raise NotImplementedError


def smallest(priority: Int[Tensor, "... old"], other: Int[Tensor, "... new"], n: int) -> Int[Tensor, "... n"]:
    """Indices of the ``n`` smallest priorities in the concatenation of both."""
    return torch.cat([priority, other], dim=-1).sort(dim=-1, stable=True).indices[..., :n]
