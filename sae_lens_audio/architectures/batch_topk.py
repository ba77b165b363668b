"""BatchTopK: k features per activation on average over the batch in training, a fixed threshold afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_method
from hooked_whisper.errors import CheckpointError, ConfigError, ShapeError
from sae_lens_audio.architectures.auxiliary import aux_k_loss
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import LINEAR, DictionaryLearningForm, SAELensForm
from sae_lens_audio.architectures.outputs import TrainStepOutput, level_errors
from sae_lens_audio.architectures.sparse import Ranks, SparseFeatureActs, encode_batch_topk
from sae_lens_audio.architectures.topk import check_k, k_of_dictionary_learning


@dataclass(frozen=True)
class BatchTopKConfig(SAEConfig):
    """k: features per activation on average, not necessarily an integer. threshold_rate: weight of each batch in the
    running mean of the threshold. aux_coefficient, aux_k: as in
    :class:`~sae_lens_audio.architectures.topk.TopKConfig`.
    """

    k: float | int = 32
    threshold_rate: float | int = 0.01
    aux_coefficient: float | int = 1 / 32
    aux_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k, self.d_sae, whole=False)

    @property
    def dead_per_row(self) -> int:
        return self.aux_k if self.aux_k is not None else max(1, self.d_in // 2)


class BatchTopK(SAE):
    """Training keeps the ``n k`` largest features of a batch of ``n`` rows; ``encode`` keeps those above a threshold.

    The threshold is the running mean, over batches, of the smallest feature kept, so that the features of a row do not
    depend on the other rows. It is NaN until :meth:`loss` has run in training mode or :meth:`calibrate_` was called.

    Source: Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders", equations 4 to 6.
    """

    architecture: ClassVar[str] = "batchtopk"
    config_class = BatchTopKConfig
    unit_norm_decoder: ClassVar[bool] = True
    compares_features: ClassVar[bool] = True
    saelens_architectures = {"batchtopk": {}}
    saelens_fields = {
        "k": "k", "aux_loss_coefficient": "aux_coefficient", "topk_threshold_lr": "threshold_rate",
    }  # fmt: skip
    saelens_required = ("k",)
    saelens_ranks_by_decoder_norm = True
    dictionary_learning_forms = {"BatchTopKSAE": DictionaryLearningForm(LINEAR | {"b_dec": "b_dec"})}
    config: BatchTopKConfig
    topk_threshold: Float[Tensor, ""]

    def __init__(self, config: BatchTopKConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # float64: a running mean at rate 0.01 loses small changes in half precision
        self.register_buffer("topk_threshold", torch.tensor(torch.nan, dtype=torch.float64))

    @property
    def can_encode(self) -> bool:
        return not bool(self.topk_threshold.isnan())

    def to_dtype(self, dtype: torch.dtype) -> SAE:
        """The threshold stays in float64."""
        self.to(dtype)
        self.topk_threshold = self.topk_threshold.double()
        return self

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """
        Raises:
            ConfigError: there is no threshold yet.
        """
        if not self.can_encode:
            raise ConfigError(
                f"this {self.architecture} SAE has no threshold yet: train it, or call calibrate_ with activations"
            )
        return pre.relu() * (pre > self.topk_threshold.to(pre.dtype))

    def encode_sparse(self, x: Float[Tensor, "row d_in"], ranks: Ranks | None = None) -> SparseFeatureActs:
        """Return the ``n k`` largest positive features of the ``n`` rows together; with ``ranks``, of all processes."""
        n = len(x) if ranks is None else int(ranks.sum(torch.tensor(len(x), device=x.device)))
        return encode_batch_topk(self.checked(x), self.W_enc, self.b_enc, self.center, int(self.config.k * n), ranks)

    sparse_codes = renamed_method("sparse_codes", "encode_sparse")

    def batch_feature_acts(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_sae"]:
        return self.encode_sparse(x).dense(len(x))

    @torch.no_grad()
    def update_threshold_(self, feature_acts: SparseFeatureActs, ranks: Ranks | None = None) -> None:
        """Update the running mean of the smallest feature kept; a batch without features changes nothing."""
        values = feature_acts.values.detach().double()
        smallest = values.min() if len(values) else values.new_tensor(torch.inf)
        if ranks is not None:
            smallest = ranks.minimum(smallest)
        # start from the first batch: starting from 0 would be wrong for hundreds of steps
        updated = torch.where(
            self.topk_threshold.isnan(), smallest, self.topk_threshold.lerp(smallest, self.config.threshold_rate)
        )
        self.topk_threshold.copy_(torch.where(smallest.isfinite(), updated, self.topk_threshold))

    @torch.no_grad()
    def calibrate_(self, batches: Iterable[Float[Tensor, "row d_in"]]) -> None:
        """Set the threshold to the mean, over batches, of the smallest feature kept (the paper's equation 6).

        Raises:
            ShapeError: no activation has a positive feature.
        """
        smallest = []
        for rows in batches:
            values = self.encode_sparse(rows).values
            if len(values):
                smallest.append(values.min().double())
        if not smallest:
            raise ShapeError("no activation has a positive feature: give activations of speech to calibrate_")
        self.topk_threshold.copy_(torch.stack(smallest).mean())

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """In training mode this also updates the threshold, as batch normalization updates its running mean."""
        x = self.checked(x)
        feature_acts = self.encode_sparse(x, ranks)
        if self.training:
            self.update_threshold_(feature_acts, ranks)
        errors, predicted = level_errors(self.decode_levels(feature_acts, len(x)), self.b_dec, x)
        auxiliary = aux_k_loss(self, x, x, predicted, dead, self.config.dead_per_row)
        zero = auxiliary.new_zeros(())
        return TrainStepOutput(
            errors.sum(), zero, self.config.aux_coefficient * auxiliary, errors[-1].detach(), feature_acts.active
        )

    def decode_levels(self, feature_acts: SparseFeatureActs, n_rows: int) -> Float[Tensor, "level row d_in"]:
        """Return the decoded features of each level, without those of earlier ones and without bias; here all."""
        return feature_acts.decode(self.W_dec)[None]

    def to_saelens(self) -> SAELensForm:
        """A JumpReLU SAE with one threshold for all features; the exact threshold is saved beside it."""
        if not self.can_encode:
            raise CheckpointError(
                f"this {self.architecture} SAE has no threshold, so nothing can be encoded from its file: train it or "
                "calibrate_ it on activations first"
            )
        tensors = super().to_saelens().tensors
        # float64 in the metadata; the tensor has the precision of the weights
        threshold = tensors.pop("topk_threshold")
        tensors["threshold"] = threshold.to(self.dtype).repeat(self.n_features)
        return SAELensForm("jumprelu", tensors, saved={"topk_threshold": threshold.item()})

    @classmethod
    def tensors_from_saelens(
        cls, tensors: dict[str, Tensor], saved: Mapping[str, Any], source: object
    ) -> dict[str, Tensor]:
        threshold = saved.get("topk_threshold")
        if not isinstance(threshold, float):
            raise CheckpointError(f"{source}: 'topk_threshold' must be a number, not {threshold!r}: save it again")
        weights = {name: tensor for name, tensor in tensors.items() if name != "threshold"}
        return weights | {"topk_threshold": torch.tensor(threshold, dtype=torch.float64)}

    @classmethod
    def values_from_dictionary_learning(
        cls, state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: object
    ) -> dict[str, Any]:
        return k_of_dictionary_learning(state, trainer, source)

    @torch.no_grad()
    def load_dictionary_learning_buffers_(self, state: Mapping[str, Tensor], source: object) -> None:
        """Set the threshold, or NaN where the file has none (-1)."""
        threshold = state.get("threshold", torch.tensor(-1.0)).double()
        if threshold.isinf().any():
            raise CheckpointError(f"{source}: 'threshold' is infinite: the training broke, take an earlier checkpoint")
        known = threshold.numel() == 1 and bool(threshold >= 0)
        self.topk_threshold.fill_(threshold.item() if known else torch.nan)
