"""Transcoders: features of one activation that predict another, such as an MLP's output from its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import CheckpointError, ConfigError
from sae_lens_audio.architectures.auxiliary import aux_k_loss
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig, check_size
from sae_lens_audio.architectures.conversion import SAELensForm
from sae_lens_audio.architectures.elementwise import Autoencoded, EncoderWeights, autoencode
from sae_lens_audio.architectures.jumprelu import (
    JUMPRELU_FIELDS,
    check_jumprelu,
    jumprelu,
    jumprelu_autoencode,
    l0_penalty,
    without_unused_target,
)
from sae_lens_audio.architectures.linear import centered_linear, product
from sae_lens_audio.architectures.outputs import TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks, encode_topk
from sae_lens_audio.architectures.standard import weighted_relu
from sae_lens_audio.architectures.topk import check_k, keep_top


@dataclass(frozen=True)
class TranscoderConfig(SAEConfig):
    """d_out: width of the predicted activation. skip: whether a linear path ``x W_skip^T`` bypasses the features.
    l1_coefficient: weight of the penalty. ``b_dec`` belongs to the output and is never subtracted from the input.
    """

    apply_b_dec_to_input: bool = False
    d_out: int = 0
    skip: bool = False
    l1_coefficient: float | int = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "d_out")
        if self.apply_b_dec_to_input:
            raise ConfigError("a transcoder's b_dec belongs to its output: leave apply_b_dec_to_input False")


class Transcoder(SAE):
    """``y_hat = relu(x W_enc + b_enc) W_dec + b_dec [+ x W_skip^T]``; loss ``|y - y_hat|^2 + l1 |f|_1``.

    ``decode`` returns the contribution of features and bias. The skip path needs ``x``, so only :meth:`decode_like` and
    :meth:`forward` add it.

    Sources: Dunefsky, Chlenski and Nanda 2024, "Transcoders Find Interpretable LLM Feature Circuits", equations 1 to 3;
    Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders for Interpretability", for the skip.
    """

    architecture: ClassVar[str] = "transcoder"
    config_class = TranscoderConfig
    predicts_other_hook = True
    saelens_architectures = {"transcoder": {"skip": False}, "skip_transcoder": {"skip": True}}
    saelens_fields = {"d_out": "d_out", "l1_coefficient": "l1_coefficient"}
    saelens_required = ("d_out",)
    config: TranscoderConfig
    W_skip: nn.Parameter

    def __init__(self, config: TranscoderConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        rows = torch.randn(config.d_sae, config.d_out, generator=generator)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.b_dec = nn.Parameter(torch.zeros(config.d_out))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(config.d_out, config.d_in))

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        return product(features, self.W_dec) + self.b_dec

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        decoded = self.decode(features)
        return decoded + product(activations.to(self.dtype), self.W_skip.T) if self.config.skip else decoded

    def loss(  # type: ignore[override]
        self,
        x: Float[Tensor, "row d_in"],
        target: Float[Tensor, "row d_out"],
        dead: Bool[Tensor, "d_sae"] | None = None,
        ranks: Ranks | None = None,
    ) -> TrainStepOutput:
        """``target``: the model's activations at the predicted hook point. No term depends on ``dead``."""
        x = self.checked(x)
        encoder = EncoderWeights(self.W_enc, self.b_enc, None)
        out = autoencode(x, encoder, (self.W_dec,), weighted_relu, (torch.ones_like(self.b_enc),))
        error = squared_error(self._predicted(out, x), target.to(self.dtype))
        sparsity = self.config.l1_coefficient * out.penalty.mean()
        return TrainStepOutput(error, sparsity, sparsity.new_zeros(()), error.detach(), out.active)

    def _predicted(self, out: Autoencoded, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_out"]:
        return out.decoded[0] + self._bypass(x)

    def _bypass(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "*row d_out"]:
        """Return what is added to the decoded features: the bias, and the skip path. ``x`` gets no gradient."""
        if not self.config.skip:
            return self.b_dec
        if torch.is_autocast_enabled(x.device.type):
            return product(x, self.W_skip.T) + self.b_dec
        return centered_linear(x, self.W_skip.T, self.b_dec, None)

    @classmethod
    def sizes_for(cls, widths: Sequence[int]) -> dict[str, int]:
        return {"d_in": widths[0], "d_out": widths[-1]}

    @property
    def input_widths(self) -> tuple[int, ...]:
        return (self.d_in, self.config.d_out)

    def training_inputs(self, rows: Sequence[Float[Tensor, "row _"]]) -> tuple[Tensor, ...]:
        return (rows[0], rows[1])

    def predicted_rows(self, rows: Sequence[Float[Tensor, "row _"]]) -> Sequence[Float[Tensor, "row _"]]:
        return rows[1:]

    @torch.no_grad()
    def center_decoder_(self, means: Sequence[Float[Tensor, "_"]]) -> None:
        """Set ``b_dec`` to the mean of the output, and ``b_enc`` such that the mean of the input has pre-activations 0.

        An SAE centers its input with ``b_dec``. Without this, features whose encoder column points away from the mean
        are never active: in a TopK transcoder of tiny.en's block 2, 6 % instead of 0.6 % were dead after 600 steps.
        """
        super().center_decoder_(means)
        self.b_enc.copy_(-(means[0] @ self.W_enc))

    def fit_encoder_(self, rows: Sequence[Float[Tensor, "row _"]]) -> None:
        """Do nothing: the reconstructions of an untrained transcoder are unrelated to its target."""

    @torch.no_grad()
    def unscale_(self, scales: Sequence[float]) -> None:
        super().unscale_(scales)
        ratio = scales[0] / scales[-1]
        self.W_dec.mul_(ratio)
        if self.config.skip:
            self.W_skip.mul_(ratio)

    def resample_(
        self, latents: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """
        Raises:
            ConfigError: always, since directions of the input do not determine those of the output.
        """
        raise ConfigError("features of a transcoder cannot be resampled: the TopK form has an auxiliary loss")

    def to_saelens(self) -> SAELensForm:
        form = super().to_saelens()
        names = {values["skip"]: name for name, values in self.saelens_architectures.items()}
        name = names.get(self.config.skip, form.architecture)
        return replace(form, architecture=name, keys={"d_out": self.config.d_out})

    @classmethod
    def values_from_saelens(cls, cfg: Mapping[str, Any], source: object) -> dict[str, Any]:
        values = super().values_from_saelens(cfg, source)
        if values["apply_b_dec_to_input"]:
            raise CheckpointError(f"{source}: 'apply_b_dec_to_input' must be false for a transcoder: correct it")
        return values


@dataclass(frozen=True)
class TopKTranscoderConfig(TranscoderConfig):
    """k, aux_coefficient, aux_k: as in :class:`~sae_lens_audio.architectures.topk.TopKConfig`."""

    k: int = 32
    aux_coefficient: float | int = 1 / 32
    aux_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k, self.d_sae, whole=True)


class TopKTranscoder(Transcoder):
    """A transcoder that keeps the ``k`` largest features: loss ``|y - y_hat|^2 + alpha L_aux``, no penalty.

    ``W_dec`` starts at zero, as in EleutherAI's sparsify. Random rows would first be unlearned: their noise makes all
    features less active, and those that fall out of the ``k`` largest die. (After 600 steps at block 2 of tiny.en, 20 %
    of the features were dead with random rows, 6 % with zeros, and 0.6 % with a centered input too; the explained
    variance was .82, .85 and .85.)

    Source: Paulo, Shabalin and Belrose 2025; the auxiliary loss is that of Gao et al. 2024.
    """

    architecture: ClassVar[str] = "topk_transcoder"
    config_class = TopKTranscoderConfig
    unit_norm_decoder: ClassVar[bool] = False
    compares_features: ClassVar[bool] = True
    saelens_architectures = {}  # SAELens has none
    config: TopKTranscoderConfig

    def __init__(self, config: TopKTranscoderConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        nn.init.zeros_(self.W_dec)

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return keep_top(pre, self.config.k)

    def loss(  # type: ignore[override]
        self,
        x: Float[Tensor, "row d_in"],
        target: Float[Tensor, "row d_out"],
        dead: Bool[Tensor, "d_sae"] | None = None,
        ranks: Ranks | None = None,
    ) -> TrainStepOutput:
        x, target = self.checked(x), target.to(self.dtype)
        feature_acts = encode_topk(x, self.W_enc, self.b_enc, None, self.config.k)
        predicted = feature_acts.decode(self.W_dec) + self._bypass(x)
        error = squared_error(predicted, target)
        dead_per_row = self.config.aux_k if self.config.aux_k is not None else max(1, self.config.d_out // 2)
        auxiliary = aux_k_loss(self, x, target, predicted, dead, dead_per_row)
        zero = auxiliary.new_zeros(())
        return TrainStepOutput(
            error, zero, self.config.aux_coefficient * auxiliary, error.detach(), feature_acts.active
        )


@dataclass(frozen=True)
class JumpReLUTranscoderConfig(TranscoderConfig):
    """l0_coefficient, bandwidth, initial_threshold, target_l0: as in
    :class:`~sae_lens_audio.architectures.jumprelu.JumpReLUConfig`.
    """

    l0_coefficient: float | int = 1.0
    bandwidth: float | int = 0.001
    initial_threshold: float | int = 0.001
    target_l0: float | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_jumprelu(self.bandwidth, self.initial_threshold, self.target_l0, self.d_sae)


class JumpReLUTranscoder(Transcoder):
    """A transcoder with a threshold per feature: loss ``|y - y_hat|^2 + lambda |f|_0``.

    Source: the transcoders of Gemma Scope (Lieberum et al. 2024), with the JumpReLU of Rajamanoharan et al. 2024.
    """

    architecture: ClassVar[str] = "jumprelu_transcoder"
    config_class = JumpReLUTranscoderConfig
    saelens_architectures = {"jumprelu_transcoder": {"skip": False}, "jumprelu_skip_transcoder": {"skip": True}}
    saelens_fields = {**Transcoder.saelens_fields, **JUMPRELU_FIELDS}
    config: JumpReLUTranscoderConfig
    threshold: nn.Parameter

    def __init__(self, config: JumpReLUTranscoderConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.threshold = nn.Parameter(torch.full((config.d_sae,), float(config.initial_threshold)))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        return jumprelu(pre.relu(), self.threshold, self.config.bandwidth)

    def loss(  # type: ignore[override]
        self,
        x: Float[Tensor, "row d_in"],
        target: Float[Tensor, "row d_out"],
        dead: Bool[Tensor, "d_sae"] | None = None,
        ranks: Ranks | None = None,
    ) -> TrainStepOutput:
        """No term depends on ``dead``."""
        x, encoder = self.checked(x), EncoderWeights(self.W_enc, self.b_enc, None)
        out = jumprelu_autoencode(x, encoder, self.W_dec, self.threshold, self.config.bandwidth)
        error = squared_error(self._predicted(out, x), target.to(self.dtype))
        sparsity = self.config.l0_coefficient * l0_penalty(out.penalty, self.config.target_l0)
        return TrainStepOutput(error, sparsity, sparsity.new_zeros(()), error.detach(), out.active)

    @classmethod
    def values_from_saelens(cls, cfg: Mapping[str, Any], source: object) -> dict[str, Any]:
        return without_unused_target(super().values_from_saelens(cfg, source), cfg)

    @torch.no_grad()
    def project_weights_(self) -> None:
        self.threshold.clamp_(min=0)
