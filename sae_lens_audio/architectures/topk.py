"""TopK: the k largest features of each activation; and AbsTopK, the k largest in size, of either sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.errors import PatchError
from sae_lens_audio.architectures.auxiliary import aux_k_loss
from sae_lens_audio.architectures.base import SAE, SAEConfig, TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks, SparseCodes, encode_topk, largest_of_rows


@dataclass(frozen=True)
class TopKConfig(SAEConfig):
    """k: features per activation; aux_coefficient: weight of the auxiliary loss (1/32 in the paper);
    aux_k: dead features per activation in it, half of ``d_in`` unless given (the paper's heuristic).
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
    if isinstance(k, bool) or not 0 < k <= d_sae or (whole and k != int(k)):
        raise PatchError(f"k must be {'an integer ' if whole else ''}above 0 and at most d_sae = {d_sae}, got {k!r}")


def keep_top(pre: Float[Tensor, "*batch d_sae"], k: int) -> Float[Tensor, "*batch d_sae"]:
    """The ``k`` largest of each row, those below 0 set to 0; all else 0."""
    values, chosen = largest_of_rows(pre.reshape(-1, pre.shape[-1]), k)
    return pre.new_zeros(values.shape[0], pre.shape[-1]).scatter(1, chosen, values.relu()).view(pre.shape)


class TopK(SAE):
    """``f = TopK((x - b_dec) W_enc + b_enc)``; ``|x - x_hat|^2 + alpha L_aux``, decoder rows of norm 1.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", equations 4 and 5 and appendix A.2.
    """

    architecture: ClassVar[str] = "topk"
    config_class = TopKConfig
    unit_norm_decoder: ClassVar[bool] = True
    config: TopKConfig

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return keep_top(pre, self.config.k)

    def sparse_codes(self, x: Float[Tensor, "row d_in"]) -> SparseCodes:
        """As :meth:`encode`, without the zeros."""
        return encode_topk(self.checked(x), self.W_enc, self.b_enc, self.centre, self.config.k)

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        x = self.checked(x)
        codes = self.sparse_codes(x)
        predicted = codes.decode(self.W_dec) + self.b_dec
        error = squared_error(predicted, x)
        revived = aux_k_loss(self, x, x, predicted, dead, self.config.dead_per_row)
        zero = revived.new_zeros(())
        return TrainStepOutput(error, zero, self.config.aux_coefficient * revived, error.detach(), codes.active)


class AbsTopK(TopK):
    """The ``k`` features of each row that are largest in size keep their value and sign.

    Source: the ``abstopk`` of SAELens, for which files exist. Its auxiliary loss is TopK's.
    """

    architecture: ClassVar[str] = "abstopk"

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        chosen = pre.abs().topk(self.config.k, dim=-1, sorted=False).indices
        return pre.new_zeros(pre.shape).scatter(-1, chosen, pre.gather(-1, chosen))

    def sparse_codes(self, x: Float[Tensor, "row d_in"]) -> SparseCodes:
        return encode_topk(self.checked(x), self.W_enc, self.b_enc, self.centre, self.config.k, signed=True)
