"""The tied autoencoder without decoder bias of the first SAE work on Whisper, for replication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import ConfigError
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import SAELensForm
from sae_lens_audio.architectures.decoder import normalize_rows_
from sae_lens_audio.architectures.linear import product
from sae_lens_audio.architectures.outputs import TrainStepOutput, rows_with
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True)
class TiedConfig(SAEConfig):
    """reconstruction_alpha: weight of the mean squared error against the L1 norm, whose weight is 1 (the authors used
    1e4 for the residual stream, 1e5 for the MLP). There is no decoder bias, so nothing is subtracted from the input.
    """

    apply_b_dec_to_input: bool = False
    reconstruction_alpha: float | int = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apply_b_dec_to_input:
            raise ConfigError("a tied SAE has no b_dec to subtract: leave apply_b_dec_to_input False")


class Tied(SAE):
    """``f = relu(x W + b_enc)``, ``x_hat = W f`` with columns of norm 1; one matrix, no decoder bias.

    Loss: ``alpha mean((x_hat - x)^2) + mean_row |f|_1``, the first mean over rows and widths.

    Source: er537/whisper_interpretability (2023), sparse_coding; after Cunningham et al. 2023, "Sparse Autoencoders
    Find Highly Interpretable Features in Language Models". Their code rescales the columns to norm 1 in every forward
    pass; ours does so once after each step (:meth:`project_weights_`), with the same numbers, so that evaluation
    changes no weights.
    """

    architecture: ClassVar[str] = "tied"
    config_class = TiedConfig
    unit_norm_decoder: ClassVar[bool] = True
    config: TiedConfig

    def __init__(self, config: TiedConfig, seed: int = 0) -> None:
        nn.Module.__init__(self)  # the base class would add a second matrix and a decoder bias
        self.config = config
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        weight = torch.empty(config.d_in, config.d_sae)
        nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(seed))
        self.W_enc = nn.Parameter(weight)
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
        return product(features, self.W_enc.T)

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """No term depends on ``dead``. Pass rows of speech only: in the original code padding paid the penalty too."""
        x = self.checked(x)
        features = self.encode(x)
        error = (self.decode(features) - x).square().mean()
        reconstruction, sparsity = self.config.reconstruction_alpha * error, features.sum(-1).mean()
        summed = error.detach() * self.d_in  # the original loss averages over the width too
        return TrainStepOutput(reconstruction, sparsity, error.new_zeros(()), summed, rows_with(features))

    def center_decoder_(self, means: Sequence[Float[Tensor, "_"]]) -> None:
        """Do nothing: there is no decoder bias."""

    def fit_encoder_(self, rows: Sequence[Float[Tensor, "row _"]]) -> None:
        """Do nothing: columns have norm 1."""

    @torch.no_grad()
    def resample_(
        self, latents: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """``scale`` has no effect: columns have norm 1."""
        self.W_enc[:, latents] = directions.T
        self._reset_biases_(latents)

    @torch.no_grad()
    def project_gradient_(self) -> None:
        """Do nothing: the original code did not project the gradient."""

    def fold_W_dec_norm(self) -> None:
        """Do nothing: columns have norm 1."""

    @torch.no_grad()
    def project_weights_(self) -> None:
        normalize_rows_(self.W_enc.T)

    def to_saelens(self) -> SAELensForm:
        """A standard SAE with the transposed encoder as decoder and a zero bias."""
        form = super().to_saelens()
        decoder = form.tensors["W_enc"].T.clone(memory_format=torch.contiguous_format)
        return SAELensForm("standard", form.tensors | {"W_dec": decoder, "b_dec": self.b_dec.cpu()})

    @classmethod
    def tensors_from_saelens(
        cls, tensors: dict[str, Tensor], saved: Mapping[str, Any], source: object
    ) -> dict[str, Tensor]:
        return {name: tensors[name] for name in ("W_enc", "b_enc") if name in tensors}
