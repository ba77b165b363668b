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
from sae_lens_audio.architectures.base import SAE, SAEConfig, TrainStepOutput, squared_error
from sae_lens_audio.architectures.sparse import Ranks, SparseCodes, encode_batch_topk
from sae_lens_audio.architectures.topk import check_k


@dataclass(frozen=True)
class BatchTopKConfig(SAEConfig):
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


class BatchTopK(SAE):
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

    def sparse_codes(self, x: Float[Tensor, "row d_in"], ranks: Ranks | None = None) -> SparseCodes:
        """The ``n k`` largest positive features of the ``n`` rows together (of all ``ranks``, if there are others)."""
        n = len(x) if ranks is None else int(ranks.sum(torch.tensor(len(x), device=x.device)))
        return encode_batch_topk(self.checked(x), self.W_enc, self.b_enc, self.centre, int(self.config.k * n), ranks)

    @torch.no_grad()
    def update_threshold_(self, codes: SparseCodes, ranks: Ranks | None = None) -> None:
        """One step of the running mean of the smallest feature kept; a batch without features changes nothing."""
        kept = codes.values.detach().double()
        smallest = kept.min() if len(kept) else kept.new_tensor(torch.inf)
        if ranks is not None:
            smallest = ranks.minimum(smallest)
        # NaN at first: starting from 0 would be wrong for hundreds of steps
        moved = torch.where(
            self.topk_threshold.isnan(), smallest, self.topk_threshold.lerp(smallest, self.config.threshold_rate)
        )
        self.topk_threshold.copy_(torch.where(smallest.isfinite(), moved, self.topk_threshold))

    @torch.no_grad()
    def calibrate_(self, batches: Iterable[Float[Tensor, "row d_in"]]) -> None:
        """Set the threshold to the mean, over batches, of the smallest feature kept (the paper's equation 6)."""
        smallest = []
        for rows in batches:
            kept = self.sparse_codes(rows).values
            if len(kept):
                smallest.append(kept.min().double())
        if not smallest:
            raise PatchError("no activation has a positive feature: give activations of speech to calibrate_")
        self.topk_threshold.copy_(torch.stack(smallest).mean())

    def loss(
        self, x: Float[Tensor, "row d_in"], dead: Bool[Tensor, "d_sae"] | None = None, ranks: Ranks | None = None
    ) -> TrainStepOutput:
        """In training mode this moves the threshold too, as batch normalisation moves its running mean."""
        x = self.checked(x)
        codes = self.sparse_codes(x, ranks)
        if self.training:
            self.update_threshold_(codes, ranks)
        levels = self.decode_levels(codes, len(x))
        revived = aux_k_loss(self, x, x, levels[-1], dead, self.config.dead_per_row)
        errors = [squared_error(level, x) for level in levels]  # a few levels, each as large as the batch
        zero = revived.new_zeros(())
        auxiliary = self.config.aux_coefficient * revived
        return TrainStepOutput(torch.stack(errors).sum(), zero, auxiliary, errors[-1].detach(), codes.active)

    def decode_levels(self, codes: SparseCodes, n_rows: int) -> Float[Tensor, "level row d_in"]:
        """The reconstructions that the loss compares with the input, the whole one last; here the only one."""
        return codes.decode(self.W_dec)[None] + self.b_dec
