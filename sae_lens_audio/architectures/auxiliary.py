"""The auxiliary loss that lets dead features model what the living ones leave over."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_audio.architectures.base import squared_error


def aux_k_loss(
    pre: Float[Tensor, "row d_sae"],
    error: Float[Tensor, "row d"],
    directions: Float[Tensor, "d_sae d"],
    dead: Bool[Tensor, "d_sae"] | None,
    k: int,
) -> Float[Tensor, ""]:
    """``|e - e_hat|^2``, where ``e_hat`` decodes the ``k`` largest dead features of each row; 0 if none is dead.

    The error is a target, no gradient goes through it; ``e_hat`` has no bias, the error has it already.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2.
    """
    if dead is None or not dead.any():
        return pre.new_zeros(())
    numbers = dead.nonzero().flatten()
    candidates = pre[:, numbers].relu()  # a few columns: the living ones are neither sorted nor decoded
    values, chosen = candidates.topk(min(k, len(numbers)), dim=1, sorted=False)
    kept = candidates.new_zeros(candidates.shape).scatter(1, chosen, values)
    return squared_error(kept @ directions[numbers], error.detach())
