"""Gated: one path decides whether a feature is active, another its magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import DictionaryLearningForm
from sae_lens_audio.architectures.elementwise import EncoderWeights, autoencode
from sae_lens_audio.architectures.linear import product
from sae_lens_audio.architectures.outputs import TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks

_DICTIONARY_LEARNING_NAMES = {
    "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
    "r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag",
}  # fmt: skip


@dataclass(frozen=True)
class GatedConfig(SAEConfig):
    """l1_coefficient: weight of the L1 norm of the gate's positive pre-activations."""

    l1_coefficient: float | int = 1.0


def gates(
    pre: Float[Tensor, "*batch n"], b_gate: Float[Tensor, "n"], r_mag: Float[Tensor, "n"], b_mag: Float[Tensor, "n"]
) -> tuple[tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]], Float[Tensor, "*batch n"]]:
    """Return features, and the positive part of the gates (``pre``), which is also the penalty."""
    # both paths share the matrix: compute (x W) exp(r) from the gate's product, without a second one
    magnitude = (pre - b_gate) * r_mag.exp() + b_mag
    gate = pre.relu()
    return ((pre > 0) * magnitude.relu(), gate), gate


class Gated(SAE):
    """``f = 1[gate > 0] relu(mag)`` with ``gate = (x - b_dec) W_enc + b_gate`` and
    ``mag = (x - b_dec) (W_enc exp(r_mag)) + b_mag``.

    Loss: ``|x - x_hat(f)|^2 + l1 |relu(gate)|_1 + |x - x_hat_frozen(relu(gate))|^2``. The last term trains the gate
    through a copy of the decoder that gets no gradient. Decoder rows have norm 1. There is no ``b_enc``.

    Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", equations 6 to 8.
    """

    architecture: ClassVar[str] = "gated"
    config_class = GatedConfig
    unit_norm_decoder: ClassVar[bool] = True
    saelens_architectures = {"gated": {}}
    saelens_fields = {"l1_coefficient": "l1_coefficient"}
    dictionary_learning_forms = {"GatedAutoEncoder": DictionaryLearningForm(_DICTIONARY_LEARNING_NAMES)}
    config: GatedConfig
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter

    def __init__(self, config: GatedConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        del self.b_enc
        for name in ("b_gate", "b_mag", "r_mag"):
            self.register_parameter(name, nn.Parameter(torch.zeros(config.d_sae)))

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the pre-activations of the gate."""
        return product(self.centered(x), self.W_enc) + self.b_gate

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return gates(pre, self.b_gate, self.r_mag, self.b_mag)[0][0]

    def _reset_biases_(self, latents: Int[Tensor, "n"]) -> None:
        for bias in (self.b_gate, self.b_mag, self.r_mag):
            bias[latents] = 0

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """No term depends on ``dead``."""
        x = self.checked(x)
        encoder = EncoderWeights(self.W_enc, self.b_gate, self.center)
        decoders, biases = (self.W_dec, self.W_dec.detach()), (self.b_dec, self.b_dec.detach())
        out = autoencode(x, encoder, decoders, gates, (self.b_gate, self.r_mag, self.b_mag))
        errors = [squared_error(part + bias, x) for part, bias in zip(out.decoded, biases, strict=True)]
        sparsity = self.config.l1_coefficient * out.penalty.mean()
        return TrainStepOutput(errors[0], sparsity, errors[1], errors[0].detach(), out.active)
