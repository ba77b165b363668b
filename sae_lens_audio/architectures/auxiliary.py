"""The auxiliary loss that lets dead features model what the living ones leave over."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_audio.architectures.base import SAE, squared_error
from sae_lens_audio.architectures.sparse import encode_topk


def aux_k_loss(
    sae: SAE,
    x: Float[Tensor, "row d_in"],
    target: Float[Tensor, "row d_out"],
    predicted: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, "d_sae"] | None,
    k: int,
) -> Float[Tensor, ""]:
    """``|e - e_hat|^2`` with ``e = target - predicted``; ``e_hat`` decodes the ``k`` largest dead features of each row.
    0 if none is dead.

    The error is a target, no gradient goes through it; ``e_hat`` has no bias, the error has it already. Give ``None``
    where no feature is dead: finding that out would wait for the device.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2.
    """
    numbers = None if dead is None else dead.nonzero().flatten()
    if numbers is None or not len(numbers):
        return target.new_zeros(())
    # only their columns are encoded, sorted and decoded
    codes = encode_topk(x, sae.W_enc[:, numbers], sae.b_enc[numbers], sae.centre, k)
    return squared_error(codes.decode(sae.W_dec[numbers]), (target - predicted).detach())
