"""The tied, bias-free autoencoder of the first work on Whisper, for replication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import PatchError
from sae_lens_audio.architectures.base import SAE, SAEConfig, TrainStepOutput, rows_with
from sae_lens_audio.architectures.decoder import normalise_rows_
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True)
class TiedConfig(SAEConfig):
    """reconstruction_alpha: weight of the mean squared error against the L1 norm, which has weight 1 (theirs: 1e4 for
    the residual, 1e5 for the MLP). There is no decoder bias, so nothing is subtracted from the input.
    """

    apply_b_dec_to_input: bool = False
    reconstruction_alpha: float | int = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apply_b_dec_to_input:
            raise PatchError("a tied dictionary has no b_dec to subtract: leave apply_b_dec_to_input False")


class Tied(SAE):
    """``c = relu(x W + b_enc)``, ``x_hat = W c`` with columns of norm 1; one matrix, no decoder bias.

    ``alpha mean((x_hat - x)^2) + mean_row |c|_1``, the first mean over rows and widths.

    Source: er537/whisper_interpretability (2023), sparse_coding; after Cunningham et al. 2023, "Sparse Autoencoders
    Find Highly Interpretable Features in Language Models". They rewrite the weights to unit columns in every forward
    pass, ours does so once after each step (:meth:`project_weights_`): the same numbers, and evaluation changes
    nothing.
    """

    architecture: ClassVar[str] = "tied"
    config_class = TiedConfig
    unit_norm_decoder: ClassVar[bool] = True
    config: TiedConfig

    def __init__(self, config: TiedConfig, seed: int = 0) -> None:
        nn.Module.__init__(self)  # the base would make a second matrix and a decoder bias
        self.config = config
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        start = torch.empty(config.d_in, config.d_sae)
        nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        self.W_enc = nn.Parameter(start)
        self.project_weights_()

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # type: ignore[override]
        return self.W_enc.T

    @property
    def dtype(self) -> torch.dtype:
        return self.W_enc.dtype

    @property
    def b_dec(self) -> Float[Tensor, "d_in"]:  # type: ignore[override]
        return self.W_enc.new_zeros(self.d_in)

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        return features @ self.W_enc.T

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """No term depends on ``dead``. Give rows of speech only: their own code let padding pay the penalty."""
        x = self.checked(x)
        features = self.encode(x)
        error = (self.decode(features) - x).square().mean()
        reconstruction, sparsity = self.config.reconstruction_alpha * error, features.sum(-1).mean()
        whole = error.detach() * self.d_in  # theirs is a mean over the width too
        return TrainStepOutput(reconstruction, sparsity, error.new_zeros(()), whole, rows_with(features))

    @torch.no_grad()
    def restart_(
        self, numbers: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """Columns have norm 1 here, so that there is nothing to scale."""
        self.W_enc[:, numbers] = directions.T
        self._clear_biases_(numbers)

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Nothing: their gradient was not projected."""

    @torch.no_grad()
    def project_weights_(self) -> None:
        normalise_rows_(self.W_enc.T)
