"""Crosscoders: one set of features for several blocks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_whisper.errors import ConfigError, ShapeError
from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.config import SAEConfig, check_size
from sae_lens_audio.architectures.linear import product
from sae_lens_audio.architectures.outputs import TrainStepOutput, rows_with, squared_error
from sae_lens_audio.architectures.sparse import Ranks


@dataclass(frozen=True)
class CrosscoderConfig(SAEConfig):
    """d_in: width of each block's activation. n_blocks: number of blocks. l1_coefficient: weight of the penalty.

    Nothing is subtracted from the input.
    """

    apply_b_dec_to_input: bool = False
    n_blocks: int = 0
    l1_coefficient: float | int = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self, "n_blocks")
        if self.apply_b_dec_to_input:
            raise ConfigError("a crosscoder subtracts nothing from its input: leave apply_b_dec_to_input False")


class Crosscoder(SAE):
    """``f = relu(sum_l a^l W_enc^l + b_enc)``, ``a_hat^l = f W_dec^l + b_dec^l``.

    Loss: ``sum_l |a^l - a_hat^l|^2 + l1 sum_i f_i sum_l |W_dec,i^l|``.

    ``model.attach_sae(crosscoder, hooks)`` replaces the activations of all blocks, and
    :mod:`hooked_whisper.hooks.attach_crosscoder` says in which order.

    Activations are ``[..., n_blocks, d_in]``; ``W_enc [n_blocks, d_in, d_sae]``, ``W_dec [d_sae, n_blocks, d_in]``,
    ``b_dec [n_blocks, d_in]``.

    Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing".
    """

    architecture: ClassVar[str] = "crosscoder"
    config_class = CrosscoderConfig
    reads_several_hooks = True
    config: CrosscoderConfig

    def __init__(self, config: CrosscoderConfig, seed: int = 0) -> None:
        nn.Module.__init__(self)
        self.config = config
        rows = torch.randn(config.d_sae, config.n_blocks, config.d_in, generator=torch.Generator().manual_seed(seed))
        rows = rows / rows.norm(dim=2, keepdim=True)
        self.W_enc = nn.Parameter(rows.permute(1, 2, 0).contiguous() / config.n_blocks)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(config.n_blocks, config.d_in))

    def pre_activations(self, x: Float[Tensor, "*batch n_blocks d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the input of the activation function.

        Raises:
            ShapeError: another number of blocks, or activations of another width than ``d_in``.
        """
        if x.shape[-2:] != self.b_dec.shape:
            raise ShapeError(
                f"activations end in {tuple(x.shape[-2:])}, this crosscoder takes [..., {self.config.n_blocks} blocks, "
                f"{self.d_in}]: stack the blocks' activations along the axis before the last"
            )
        return product(x.to(self.dtype).flatten(-2), self.W_enc.flatten(0, 1)) + self.b_enc

    def encode(self, activations: Float[Tensor, "*batch n_blocks d_in"]) -> Float[Tensor, "*batch d_sae"]:
        return self.activate(self.pre_activations(activations))

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch n_blocks d_in"]:
        return product(features, self.W_dec.flatten(1)).unflatten(-1, self.b_dec.shape) + self.b_dec

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch n_blocks d_in"]
    ) -> Float[Tensor, "*batch n_blocks d_in"]:
        return self.decode(features)

    def forward(self, x: Float[Tensor, "*batch n_blocks d_in"]) -> Float[Tensor, "*batch n_blocks d_in"]:
        return self.decode(self.encode(x))

    @classmethod
    def sizes_for(cls, widths: Sequence[int]) -> dict[str, int]:
        return {"d_in": widths[0], "n_blocks": len(widths)}

    @property
    def input_widths(self) -> tuple[int, ...]:
        return (self.d_in,) * self.config.n_blocks

    def training_inputs(self, rows: Sequence[Float[Tensor, "row _"]]) -> tuple[Tensor, ...]:
        return (torch.stack(list(rows), 1),)

    @torch.no_grad()
    def center_decoder_(self, means: Sequence[Float[Tensor, "_"]]) -> None:
        self.b_dec.copy_(torch.stack(list(means)))

    @torch.no_grad()
    def unscale_(self, scales: Sequence[float]) -> None:
        """Scale each block's weights and biases; features keep their units."""
        by_block = torch.tensor(scales, dtype=self.dtype, device=self.b_dec.device)
        self.W_enc.mul_(by_block[:, None, None])
        self.W_dec.div_(by_block[:, None])
        self.b_dec.div_(by_block[:, None])

    def resample_(
        self, latents: Int[Tensor, "n"], directions: Float[Tensor, "n d_in"], scale: Float[Tensor, ""]
    ) -> None:
        """
        Raises:
            ConfigError: always, since one direction does not determine those of several blocks.
        """
        raise ConfigError("features of a crosscoder cannot be resampled: set resample_every to 0")

    def fold_W_dec_norm(self) -> None:
        """
        Raises:
            ConfigError: always, since a feature has a decoder row of another norm in every block.
        """
        raise ConfigError("a crosscoder has a decoder row per block: its norms cannot be folded into one encoder")

    def loss(
        self,
        x: Float[Tensor, "row n_blocks d_in"],
        dead: Bool[Tensor, "d_sae"] | None = None,
        ranks: Ranks | None = None,
    ) -> TrainStepOutput:
        """No term depends on ``dead``."""
        features = self.encode(x)
        penalty = (features @ self.W_dec.norm(dim=2).sum(1)).mean()
        error = squared_error(self.decode(features), x)
        sparsity = self.config.l1_coefficient * penalty
        return TrainStepOutput(error, sparsity, penalty.new_zeros(()), error.detach(), rows_with(features))
