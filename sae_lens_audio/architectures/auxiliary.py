"""The auxiliary loss that lets dead features model the error of the live ones."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from sae_lens_audio.architectures.base import SAE
from sae_lens_audio.architectures.outputs import squared_error
from sae_lens_audio.architectures.sparse import encode_topk


def aux_k_loss(
    sae: SAE,
    x: Float[Tensor, "row d_in"],
    target: Float[Tensor, "row d_out"],
    predicted: Float[Tensor, "row d_out"],
    dead: Bool[Tensor, "d_sae"] | None,
    k: int,
) -> Float[Tensor, ""]:
    """Return ``|e - e_hat|^2`` with ``e = target - predicted``, where ``e_hat`` decodes the ``k`` largest dead features
    of each row; 0 if no feature is dead.

    The error is a constant: no gradient flows through it. ``e_hat`` has no bias, since the error already accounts for
    it. Pass ``None`` if no feature is dead: checking that here would synchronize the device.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2.
    """
    latents = None if dead is None else dead.nonzero().flatten()
    if latents is None or not len(latents):
        return target.new_zeros(())
    # encode and decode the dead columns only
    feature_acts = encode_topk(x, sae.W_enc[:, latents], sae.b_enc[latents], sae.center, k)
    return squared_error(feature_acts.decode(sae.W_dec[latents]), (target - predicted).detach())
