"""TopK: the k largest features of each activation; AbsTopK: the k largest in absolute value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_method
from hooked_whisper.errors import CheckpointError, ConfigError
from sae_lens_audio.architectures.auxiliary import aux_k_loss
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import LINEAR, DictionaryLearningForm, SAELensForm
from sae_lens_audio.architectures.outputs import TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks, SparseFeatureActs, encode_topk, largest_of_rows


@dataclass(frozen=True)
class TopKConfig(SAEConfig):
    """k: features per activation. aux_coefficient: weight of the auxiliary loss (1/32 in the paper). aux_k: dead
    features per activation in that loss; ``None`` takes half of ``d_in`` (the paper's heuristic).
    """

    k: int = 32
    aux_coefficient: float | int = 1 / 32
    aux_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k, self.d_sae, whole=True)

    @property
    def dead_per_row(self) -> int:
        return self.aux_k if self.aux_k is not None else max(1, self.d_in // 2)


def check_k(k: float | int, d_sae: int, whole: bool) -> None:
    """
    Raises:
        ConfigError: ``k`` is not in the range of 0 to ``d_sae``, or not an integer if ``whole``.
    """
    if isinstance(k, bool) or not 0 < k <= d_sae or (whole and k != int(k)):
        raise ConfigError(f"k must be {'an integer ' if whole else ''}above 0 and at most d_sae = {d_sae}, got {k!r}")


def keep_top(pre: Float[Tensor, "*batch d_sae"], k: int) -> Float[Tensor, "*batch d_sae"]:
    """Keep the ``k`` largest positive values of each row; set the others to 0."""
    values, latents = largest_of_rows(pre.reshape(-1, pre.shape[-1]), k)
    return pre.new_zeros(values.shape[0], pre.shape[-1]).scatter(1, latents, values.relu()).view(pre.shape)


def k_of_dictionary_learning(state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: object) -> dict[str, Any]:
    """Return ``k`` from a file's buffer, or else from its trainer's settings.

    Raises:
        CheckpointError: it is not an integer.
    """
    buffer = state.get("k")
    k = int(buffer) if buffer is not None and buffer.numel() == 1 else trainer.get("k")
    if isinstance(k, bool) or not isinstance(k, int):
        raise CheckpointError(f"{source}: 'k' must be an integer, it is {k!r}")
    return {"k": k}


class TopK(SAE):
    """``f = TopK((x - b_dec) W_enc + b_enc)``; loss ``|x - x_hat|^2 + alpha L_aux``, decoder rows of norm 1.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", equations 4 and 5 and appendix A.2.
    """

    architecture: ClassVar[str] = "topk"
    config_class = TopKConfig
    unit_norm_decoder: ClassVar[bool] = True
    compares_features: ClassVar[bool] = True
    saelens_architectures = {"topk": {}}
    saelens_fields = {"k": "k", "aux_loss_coefficient": "aux_coefficient"}
    saelens_required = ("k",)
    dictionary_learning_forms = {"AutoEncoderTopK": DictionaryLearningForm(LINEAR | {"b_dec": "b_dec"})}
    config: TopKConfig

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return keep_top(pre, self.config.k)

    def encode_sparse(self, x: Float[Tensor, "row d_in"]) -> SparseFeatureActs:
        """Like :meth:`encode`, but sparse."""
        return encode_topk(self.checked(x), self.W_enc, self.b_enc, self.center, self.config.k)

    sparse_codes = renamed_method("sparse_codes", "encode_sparse")

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        x = self.checked(x)
        feature_acts = self.encode_sparse(x)
        predicted = feature_acts.decode(self.W_dec) + self.b_dec
        error = squared_error(predicted, x)
        auxiliary = aux_k_loss(self, x, x, predicted, dead, self.config.dead_per_row)
        zero = auxiliary.new_zeros(())
        return TrainStepOutput(
            error, zero, self.config.aux_coefficient * auxiliary, error.detach(), feature_acts.active
        )

    def to_saelens(self) -> SAELensForm:
        keys = {"k": self.config.k, "rescale_acts_by_decoder_norm": False}
        return replace(super().to_saelens(), keys=keys)

    @classmethod
    def values_from_dictionary_learning(
        cls, state: Mapping[str, Tensor], trainer: Mapping[str, Any], source: object
    ) -> dict[str, Any]:
        return k_of_dictionary_learning(state, trainer, source)


class AbsTopK(TopK):
    """The ``k`` features of each row with the largest absolute value keep their value and sign.

    Source: the ``abstopk`` of SAELens, for which files exist. Its auxiliary loss is TopK's.
    """

    architecture: ClassVar[str] = "abstopk"
    saelens_architectures = {"abstopk": {}}
    dictionary_learning_forms = {}

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        latents = pre.abs().topk(self.config.k, dim=-1, sorted=False).indices
        return pre.new_zeros(pre.shape).scatter(-1, latents, pre.gather(-1, latents))

    def encode_sparse(self, x: Float[Tensor, "row d_in"]) -> SparseFeatureActs:
        return encode_topk(self.checked(x), self.W_enc, self.b_enc, self.center, self.config.k, signed=True)
