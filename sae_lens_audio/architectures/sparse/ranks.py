"""The operations that SAEs need across processes that share a batch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """Processes that each hold some rows of every batch."""

    @property
    def n(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """Return the elementwise sum over all processes."""
        ...

    def minimum(self, x: Tensor) -> Tensor:
        """Return the elementwise minimum over all processes."""
        ...
