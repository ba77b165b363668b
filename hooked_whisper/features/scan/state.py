"""What the parts of a scan have in common: tensors that are all there is to save, and to put together.

Every part gives the same result whatever the order in which stretches came, and however they were divided among states
that are merged: that is what makes a scan by several processes exact.
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
class Stretch:
    """Positions of one window of one recording, for all parts of a scan.

    ``first`` is the index of the first row within the whole recording.
    """

    x: Float[Tensor, "position feature"]
    recording: int
    first: int
    priority: Int[Tensor, "position"]


class Accumulator:
    """Takes in stretch after stretch; its ``saved`` attributes are its whole state."""

    saved: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.saved}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Raises :class:`CheckpointError` where a tensor is missing or has another shape."""
        for name, own in self.state().items():
            if name not in state or state[name].shape != own.shape or state[name].dtype != own.dtype:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise CheckpointError(f"a scan's {name} should be {tuple(own.shape)}, found {found}")
            setattr(self, name, state[name].to(own.device, copy=True))

    def merge(self, other: Any) -> None:
        """Take in what ``other``, made with the same options, has seen of other recordings."""
        raise NotImplementedError


def smallest(priority: Int[Tensor, "... old"], of_other: Int[Tensor, "... new"], n: int) -> Int[Tensor, "... kept"]:
    """Places of the ``n`` smallest priorities in both, one behind the other."""
    return torch.cat([priority, of_other], dim=-1).sort(dim=-1, stable=True).indices[..., :n]
