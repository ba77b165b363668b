"""Matryoshka BatchTopK: every prefix of the features must reconstruct by itself."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import PatchError
from sae_lens_audio.architectures.batch_topk import BatchTopK, BatchTopKConfig


@dataclass(frozen=True)
class MatryoshkaConfig(BatchTopKConfig):
    """widths: how many features each level has, rising, the last being ``d_sae``."""

    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (0, *self.widths)
        if not self.widths or self.widths[-1] != self.d_sae or any(b <= a for a, b in pairwise(bounds)):
            raise PatchError(f"widths must rise from above 0 to d_sae = {self.d_sae}, got {self.widths}")


class Matryoshka(BatchTopK):
    """``sum_m |x - (f_{:m} W_dec[:m] + b_dec)|^2 + alpha L_aux`` over the widths ``m``; BatchTopK features.

    Source: Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders", the objective of section 3.
    """

    architecture: ClassVar[str] = "matryoshka_batchtopk"
    config_class = MatryoshkaConfig
    config: MatryoshkaConfig

    def decode_levels(self, codes: SparseCodes, n_rows: int) -> Float[Tensor, "level row d_in"]:
        """What the first ``m`` features decode to, for every width ``m``."""
        parts = codes.in_levels(n_rows, (0, *self.config.widths)).decode(self.W_dec)
        return parts.view(len(self.config.widths), n_rows, self.d_in).cumsum(0) + self.b_dec
