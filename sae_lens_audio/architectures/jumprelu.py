"""JumpReLU: a learned threshold per feature, an L0 penalty, straight-through gradients for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import ConfigError
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig
from sae_lens_audio.architectures.conversion import PLAIN, DictionaryLearningForm
from sae_lens_audio.architectures.elementwise import Autoencoded, EncoderWeights, autoencode
from sae_lens_audio.architectures.outputs import TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True)
class JumpReLUConfig(SAEConfig):
    """l0_coefficient: weight of the sparsity penalty. bandwidth: width of the window around the threshold whose
    pre-activations contribute to its gradient. initial_threshold: of all features. target_l0: number of active features
    of each row to train towards, see :func:`l0_penalty`; ``None``: as few as the coefficient makes.
    """

    l0_coefficient: float | int = 1.0
    bandwidth: float | int = 0.001
    initial_threshold: float | int = 0.001
    target_l0: float | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_jumprelu(self.bandwidth, self.initial_threshold, self.target_l0, self.d_sae)


def check_jumprelu(
    bandwidth: float | int, initial_threshold: float | int, target_l0: float | int | None, d_sae: int
) -> None:
    """
    Raises:
        ConfigError: a value is out of range.
    """
    if not bandwidth > 0 or not initial_threshold >= 0:
        raise ConfigError(
            f"bandwidth must be above 0 and initial_threshold at least 0, got {bandwidth} and {initial_threshold}"
        )
    if target_l0 is not None and (isinstance(target_l0, bool) or not 0 < target_l0 <= d_sae):
        raise ConfigError(f"target_l0 must be above 0 and at most d_sae = {d_sae}, or None, got {target_l0!r}")


JUMPRELU_FIELDS = {
    "l0_coefficient": "l0_coefficient",
    "jumprelu_bandwidth": "bandwidth",
    "jumprelu_init_threshold": "initial_threshold",
    "target_l0": "target_l0",
}


def without_unused_target(values: dict[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Drop ``target_l0`` where SAELens ignores it: in other modes of the penalty than ``"quadratic"``."""
    if cfg.get("jumprelu_sparsity_loss_mode") == "quadratic":
        return values
    return {name: value for name, value in values.items() if name != "target_l0"}


def l0_penalty(active: Float[Tensor, "row"], target: float | int | None) -> Float[Tensor, ""]:
    """Return the mean over rows of ``L0``, or with a target of ``2 (L0 - target)^2 / target``.

    The quadratic penalty is that of Rajamanoharan et al. 2024 (appendix on training to a target sparsity),
    ``(L0 / target - 1)^2``, times twice the target, as in SAELens (the mode ``"quadratic"``, from Gemma Scope 2): a
    quarter above the target, its derivative is that of the plain penalty. Sparsity then depends little on the scale and
    the block of the activations.
    """
    if target is None:
        return active.mean()
    return 2 / target * (active - target).square().mean()


def _above(pre: Tensor, threshold: Tensor) -> Tensor:
    """1 where ``pre > threshold``, else 0: a third of the time of a comparison that is then converted to float."""
    return (pre - threshold).gt_(0)


def _sum_in_window(gradient: Tensor, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """``K((pre - threshold) / bandwidth) gradient`` with the rectangle kernel, summed to the shape of ``threshold``."""
    return (pre - threshold).abs_().lt_(bandwidth / 2).mul_(gradient).sum_to_size(threshold.shape)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return _above(pre, threshold).mul_(pre)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        pre, threshold = ctx.saved_tensors
        to_threshold = -(threshold / ctx.bandwidth) * _sum_in_window(gradient, pre, threshold, ctx.bandwidth)
        return _above(pre, threshold).mul_(gradient), to_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return _above(pre, threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        pre, threshold = ctx.saved_tensors
        return None, -(1 / ctx.bandwidth) * _sum_in_window(gradient, pre, threshold, ctx.bandwidth), None


def jumprelu(
    pre: Float[Tensor, "*batch n"], threshold: Float[Tensor, "n"], bandwidth: float | int
) -> Float[Tensor, "*batch n"]:
    """``pre`` where above ``threshold``, else 0; the threshold's gradient is the paper's equation 11."""
    return _JumpReLU.apply(pre, threshold, bandwidth)


def step(
    pre: Float[Tensor, "*batch n"], threshold: Float[Tensor, "n"], bandwidth: float | int
) -> Float[Tensor, "*batch n"]:
    """1 where ``pre`` is above ``threshold``, else 0; gradient to the threshold only, the paper's equation 12."""
    return _Step.apply(pre, threshold, bandwidth)


def jumprelu_autoencode(
    x: Float[Tensor, "row d"],
    encoder: EncoderWeights,
    decoder: Float[Tensor, "d_sae d_out"],
    threshold: Float[Tensor, "d_sae"],
    bandwidth: float | int,
) -> Autoencoded:
    """Encode and decode a batch; the penalty of a row is its number of active features."""

    def activation(pre: Tensor, threshold: Tensor) -> tuple[tuple[Tensor], Tensor]:
        pre = pre.relu()  # first, as in the paper's code: files may have negative thresholds
        return (jumprelu(pre, threshold, bandwidth),), step(pre, threshold, bandwidth)

    with torch.no_grad():
        below = threshold - bandwidth / 2
        lower = (below - 4 * torch.finfo(below.dtype).eps * threshold.abs()).relu()  # the window, and rounding
        constant = bool((threshold >= bandwidth / 2).all())  # otherwise inactive features lie in the window
    return autoencode(x, encoder, (decoder,), activation, (threshold,), lower=lower, constant=constant)


class JumpReLU(SAE):
    """``f = pre H(pre - threshold)``; loss ``|x - x_hat|^2 + lambda |f|_0``, or a quadratic penalty around a target L0;
    decoder rows of norm 1.

    The parameter is the threshold, not its logarithm, so that thresholds of 0 in existing files stay exact;
    :meth:`project_weights_` keeps it at 0 or above.

    Source: Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders", equations 8 to 12.
    """

    architecture: ClassVar[str] = "jumprelu"
    config_class = JumpReLUConfig
    unit_norm_decoder: ClassVar[bool] = True
    saelens_architectures = {"jumprelu": {}}
    saelens_fields = JUMPRELU_FIELDS
    dictionary_learning_forms = {
        "JumpReluAutoEncoder": DictionaryLearningForm(PLAIN | {"threshold": "threshold"}, centered=False)
    }
    config: JumpReLUConfig
    threshold: nn.Parameter

    def __init__(self, config: JumpReLUConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.threshold = nn.Parameter(torch.full((config.d_sae,), float(config.initial_threshold)))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        # relu first, as in the paper's code: files may have negative thresholds
        return jumprelu(pre.relu(), self.threshold, self.config.bandwidth)

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """No term depends on ``dead``."""
        x = self.checked(x)
        encoder = EncoderWeights(self.W_enc, self.b_enc, self.center)
        out = jumprelu_autoencode(x, encoder, self.W_dec, self.threshold, self.config.bandwidth)
        error = squared_error(out.decoded[0] + self.b_dec, x)
        sparsity = self.config.l0_coefficient * l0_penalty(out.penalty, self.config.target_l0)
        return TrainStepOutput(error, sparsity, sparsity.new_zeros(()), error.detach(), out.active)

    @classmethod
    def values_from_saelens(cls, cfg: Mapping[str, Any], source: object) -> dict[str, Any]:
        return without_unused_target(super().values_from_saelens(cfg, source), cfg)

    def _reset_biases_(self, latents: Int[Tensor, "n"]) -> None:
        super()._reset_biases_(latents)
        self.threshold[latents] = float(self.config.initial_threshold)

    @torch.no_grad()
    def project_weights_(self) -> None:
        super().project_weights_()
        self.threshold.clamp_(min=0)
