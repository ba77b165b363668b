"""What is trained, the same for every implementation; no packages needed, for drivers and workers alike."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = -10.0


@dataclass(frozen=True)
class Case:
    """One architecture at one size.

    implementation, variant: whose, and which of its ways where it has several.
    data, batch, held_out: a ``.npy`` file of rows, rows of a batch, and how many at its end are for scores.
    dead: how many features are held dead before every step, so that the loss that revives them is paid: their bias is
        NEVER, and the trainer's counts say that they have not been active for long.
    lr: of Adam, constant; l1, l0: coefficients of penalties where the definitions agree.
    """

    implementation: str
    variant: str
    architecture: str
    d_in: int
    d_sae: int
    k: int
    data: str
    batch: int
    held_out: int
    dead: int
    lr: float
    l1: float
    l0: float
    seed: int
    threads: int
    device: str

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the levels of a Matryoshka dictionary."""
        return self.d_sae // 16, self.d_sae // 4, self.d_sae
