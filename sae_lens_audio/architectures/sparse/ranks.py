"""What a batch spread over processes must ask the others."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """Processes that each hold some rows of every batch."""

    @property
    def n(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all of them, element by element, the same on each."""
        ...

    def minimum(self, x: Tensor) -> Tensor:
        """The smallest of all of them, element by element."""
        ...
