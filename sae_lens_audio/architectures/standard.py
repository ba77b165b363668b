"""The standard sparse autoencoder: ReLU features, an L1 penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import LINEAR, DictionaryLearningForm
from sae_lens_audio.architectures.elementwise import EncoderWeights, autoencode
from sae_lens_audio.architectures.outputs import TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True)
class StandardConfig(SAEConfig):
    """l1_coefficient: weight of the penalty, in squared units of the activations per unit of feature."""

    l1_coefficient: float | int = 1.0


def weighted_relu(
    pre: Float[Tensor, "*batch n"], weight: Float[Tensor, "n"]
) -> tuple[tuple[Float[Tensor, "*batch n"]], Float[Tensor, "*batch n"]]:
    """Return features, and their penalty."""
    features = pre.relu()
    return (features,), features * weight


class Standard(SAE):
    """``f = relu((x - b_dec) W_enc + b_enc)``; loss ``|x - x_hat|^2 + l1 sum_i f_i |W_dec,i|``.

    Source: Bricken et al. 2023, "Towards Monosemanticity" (architecture), and the Circuits Updates of April 2024, whose
    penalty weighs each feature by the norm of its decoder row and so needs no constraint; with rows of norm 1 it is the
    plain L1 penalty of 2023.
    """

    architecture: ClassVar[str] = "standard"
    config_class = StandardConfig
    saelens_architectures = {"standard": {}}
    saelens_fields = {"l1_coefficient": "l1_coefficient"}
    dictionary_learning_forms = {
        "AutoEncoder": DictionaryLearningForm(LINEAR | {"bias": "b_dec"}, unit_rows=True),
        "AutoEncoderNew": DictionaryLearningForm(LINEAR | {"decoder.bias": "b_dec"}, centered=False),
    }
    config: StandardConfig

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """No term depends on ``dead``."""
        x = self.checked(x)
        encoder = EncoderWeights(self.W_enc, self.b_enc, self.center)
        out = autoencode(x, encoder, (self.W_dec,), weighted_relu, (self.W_dec.norm(dim=1),))
        error = squared_error(out.decoded[0] + self.b_dec, x)
        sparsity = self.config.l1_coefficient * out.penalty.mean()
        return TrainStepOutput(error, sparsity, sparsity.new_zeros(()), error.detach(), out.active)
