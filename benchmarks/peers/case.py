"""The training task, the same for every implementation. Standard library only, since drivers and workers import it."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = -10.0


@dataclass(frozen=True)
class Case:
    """One architecture at one size.

    implementation, variant: the library, and which of its variants.
    data, batch, held_out: a ``.npy`` file of rows, rows per batch, and number of rows at its end that are for scores.
    dead: number of features that are forced to be dead before every step, so that the auxiliary loss is computed: their
        bias is NEVER, and the trainer's counters say that they have long been inactive.
    quiet: if not 0, before the second step each encoder bias becomes minus this many norms of the feature's encoder
        column. Rows have about unit variance along a direction: with 2.3, about one feature in a hundred is active, as
        late in training. Without it the first steps of L1, JumpReLU and gated SAEs have a thousand active features.
    lr: constant learning rate of Adam. l1, l0: penalty coefficients, where the definitions agree.
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
    quiet: float
    lr: float
    l1: float
    l0: float
    seed: int
    threads: int
    device: str

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of features at the levels of a Matryoshka SAE."""
        return self.d_sae // 16, self.d_sae // 4, self.d_sae
