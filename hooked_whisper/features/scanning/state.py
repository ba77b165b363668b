"""What the parts of a scan have in common: tensors that are all there is to save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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
