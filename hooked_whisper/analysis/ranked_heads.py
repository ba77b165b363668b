"""Attention heads ranked or selected by a measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from hooked_whisper._support.heatmap import bar_chart
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Summary, Tabular
from hooked_whisper.protocols import HeadRef


@dataclass(frozen=True, repr=False)
class RankedHeads(Tabular, Sequence[HeadRef]):
    """Attention heads in order, each with its value. It is a sequence of :class:`HeadRef`, which every function that
    takes heads accepts; ``for block, head in heads.pairs`` gives numbers.

    measure: what the heads were ranked by. unit: of the values.
    """

    heads: tuple[HeadRef, ...]
    values: tuple[float, ...]
    measure: str
    unit: str

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """``(block, head)`` of each head."""
        return tuple((head.block, head.head) for head in self.heads)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per head: stack, block, head, measure, unit, value."""
        return [
            {
                "stack": head.stack,
                "block": head.block,
                "head": head.head,
                "measure": self.measure,
                "unit": self.unit,
                "value": value,
            }
            for head, value in zip(self.heads, self.values, strict=True)
        ]

    def plot(self, title: str = "", *, most: int = 30, backend: Backend = "matplotlib") -> Any:
        """Draw the values of the first ``most`` heads as bars. ``backend="plotly"`` returns a plotly figure."""
        return bar_chart(
            [str(head) for head in self.heads[:most]],
            np.array(self.values[:most], dtype=float),
            title=title or f"Heads by {self.measure}",
            unit=self.unit,
            facecolor="white",
            backend=backend,
        )

    def summary(self) -> Summary:
        rows = tuple((head.label, value) for head, value in zip(self.heads, self.values, strict=True))
        return Summary(f"RankedHeads: {len(self)} by {self.measure}", (), ("head", self.unit), rows)

    def __len__(self) -> int:
        return len(self.heads)

    @overload
    def __getitem__(self, index: int) -> HeadRef: ...
    @overload
    def __getitem__(self, index: slice) -> RankedHeads: ...
    def __getitem__(self, index: int | slice) -> HeadRef | RankedHeads:
        if isinstance(index, slice):
            return RankedHeads(self.heads[index], self.values[index], self.measure, self.unit)
        return self.heads[index]

    def __iter__(self) -> Iterator[HeadRef]:
        return iter(self.heads)
