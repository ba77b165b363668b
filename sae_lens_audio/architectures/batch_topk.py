"""BatchTopK: k features per activation on average over the batch, a fixed threshold afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.errors import PatchError
from sae_lens_audio.architectures.auxiliary import aux_k_loss
from sae_lens_audio.architectures.base import Dictionary, DictionaryConfig, Losses, squared_error
from sae_lens_audio.architectures.topk import check_k


@dataclass(frozen=True)
class BatchTopKConfig(DictionaryConfig):
    """k: features per activation on average, not always whole; threshold_rate: share of each batch in the running mean
    of the threshold; aux_coefficient and aux_k as in :class:`~sae_lens_audio.architectures.topk.TopKConfig`.
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


class BatchTopK(Dictionary):
    """Training keeps the ``n k`` largest of all features of ``n`` rows; ``encode`` those above a threshold.

    The threshold is the running mean, over batches, of the smallest feature kept: so a row's features do not depend on
    its neighbours. It is NaN until :meth:`loss` has run in training mode or :meth:`calibrate_` has.

    Source: Bussmann, Leask and Nanda 2024, "BatchTopK Sparse Autoencoders", equations 4 to 6.
    """

    architecture: ClassVar[str] = "batchtopk"
    config_class = BatchTopKConfig
    unit_norm_decoder: ClassVar[bool] = True
    config: BatchTopKConfig
    topk_threshold: Float[Tensor, ""]

    def __init__(self, config: BatchTopKConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # float64: a running mean at rate 0.01 loses small changes in half precision
        self.register_buffer("topk_threshold", torch.tensor(torch.nan, dtype=torch.float64))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Raises :class:`PatchError` while there is no threshold."""
        if self.topk_threshold.isnan():
            raise PatchError(
                f"this {self.architecture} dictionary has no threshold yet: train it, or calibrate_ it on activations"
            )
        return pre.relu() * (pre > self.topk_threshold.to(pre.dtype))

    def activate_batch(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        """The ``n k`` largest positive pre-activations of the ``n`` rows together; all else 0."""
        positive = pre.relu().flatten()
        values, chosen = positive.topk(int(self.config.k * len(pre)), sorted=False)
        return torch.zeros_like(positive).scatter(0, chosen, values).view(pre.shape)

    @torch.no_grad()
    def update_threshold_(self, features: Float[Tensor, "row d_sae"]) -> None:
        """One step of the running mean; a batch without features changes nothing."""
        kept = features[features > 0]
        if not len(kept):
            return
        smallest = kept.min().to(self.topk_threshold)
        if self.topk_threshold.isnan():  # starting from 0 would be wrong for hundreds of steps
            self.topk_threshold.copy_(smallest)
        else:
            self.topk_threshold.lerp_(smallest, self.config.threshold_rate)

    @torch.no_grad()
    def calibrate_(self, batches: Iterable[Float[Tensor, "row d_in"]]) -> None:
        """Set the threshold to the mean, over batches, of the smallest feature kept (the paper's equation 6)."""
        smallest = []
        for rows in batches:
            features = self.activate_batch(self.pre_activations(rows))
            if (features > 0).any():
                smallest.append(features[features > 0].min().double())
        if not smallest:
            raise PatchError("no activation has a positive feature: give activations of speech to calibrate_")
        self.topk_threshold.copy_(torch.stack(smallest).mean())

    def loss(self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None) -> Losses:
        """In training mode this moves the threshold too, as batch normalisation moves its running mean."""
        pre = self.pre_activations(x)
        features = self.activate_batch(pre)
        if self.training:
            self.update_threshold_(features)
        levels = self.decode_levels(features)
        revived = aux_k_loss(pre, x - levels[-1], self.W_dec, dead, self.config.dead_per_row)
        error = squared_error(levels.transpose(0, 1), x[:, None].expand(-1, len(levels), -1))
        return Losses(error, revived.new_zeros(()), self.config.aux_coefficient * revived)

    def decode_levels(self, features: Float[Tensor, "row d_sae"]) -> Float[Tensor, "level row d_in"]:
        """The reconstructions that the loss compares with the input, the whole one last; here the only one."""
        return self.decode(features)[None]
