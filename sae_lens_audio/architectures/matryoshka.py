"""Matryoshka BatchTopK: every prefix of the features must reconstruct by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import CheckpointError, ConfigError
from sae_lens_audio.architectures.batch_topk import BatchTopK, BatchTopKConfig
from sae_lens_audio.architectures.conversion import PLAIN, DictionaryLearningForm
from sae_lens_audio.architectures.sparse import SparseFeatureActs


@dataclass(frozen=True)
class MatryoshkaConfig(BatchTopKConfig):
    """widths: number of features at each level, increasing; the last is ``d_sae``."""

    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (0, *self.widths)
        if not self.widths or self.widths[-1] != self.d_sae or any(b <= a for a, b in pairwise(bounds)):
            raise ConfigError(f"widths must rise from above 0 to d_sae = {self.d_sae}, got {self.widths}")


class Matryoshka(BatchTopK):
    """Loss ``sum_m |x - (f_{:m} W_dec[:m] + b_dec)|^2 + alpha L_aux`` over the widths ``m``; BatchTopK features.

    Source: Bussmann, Nabeshima, Karvonen and Nanda 2025, "Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders", the objective of section 3.
    """

    architecture: ClassVar[str] = "matryoshka_batchtopk"
    config_class = MatryoshkaConfig
    saelens_architectures = {"matryoshka_batchtopk": {}}
    saelens_fields = {**BatchTopK.saelens_fields, "matryoshka_widths": "widths"}
    dictionary_learning_forms = {"MatryoshkaBatchTopKSAE": DictionaryLearningForm(PLAIN)}
    config: MatryoshkaConfig

    def decode_levels(self, feature_acts: SparseFeatureActs, n_rows: int) -> Float[Tensor, "level row d_in"]:
        parts = feature_acts.in_levels(n_rows, (0, *self.config.widths)).decode(self.W_dec)
        return parts.view(len(self.config.widths), n_rows, self.d_in)

    @classmethod
    def values_from_dictionary_learning(
        cls, state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: object
    ) -> dict[str, Any]:
        values = super().values_from_dictionary_learning(state, trainer, source)
        sizes = state.get("group_sizes")
        if sizes is None or sizes.ndim != 1:
            raise CheckpointError(f"{source}: the weights have no list 'group_sizes', which a Matryoshka SAE needs")
        return values | {"widths": tuple(accumulate(map(int, sizes.tolist())))}
