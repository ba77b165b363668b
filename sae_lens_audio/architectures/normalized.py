"""Dictionaries whose input is scaled by statistics of each activation: layer norm, constant norm."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked_whisper.errors import PatchError, check_option
from sae_lens_audio.architectures.base import SAE

Normalisation = Literal["layer_norm", "constant_norm_rescale"]
_EPSILON = 1e-5


class NormalizedSAE(nn.Module):
    """``inner`` on activations normalised one by one, and its output brought back to the activation's own scale.

    ``layer_norm``: mean 0 and standard deviation 1 (unbiased). ``constant_norm_rescale``: norm ``sqrt(d_in)``.
    Such scales cannot be folded into weights, and ``decode`` cannot know them: :meth:`forward` and :meth:`decode_like`
    take them from the activation.

    Source: ``normalize_activations`` of SAELens, whose numbers these are.
    """

    def __init__(self, inner: SAE, normalisation: Normalisation) -> None:
        super().__init__()
        check_option("normalisation", normalisation, get_args(Normalisation), PatchError)
        if inner.b_dec.shape != (inner.d_in,):
            raise PatchError("a transcoder or crosscoder cannot give back its input's scale: normalise before it")
        self.inner, self.normalisation = inner, normalisation

    @property
    def d_in(self) -> int:
        return self.inner.d_in

    @property
    def n_features(self) -> int:
        return self.inner.n_features

    @property
    def labels(self) -> tuple[str, ...]:
        return self.inner.labels

    def _statistics(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Tensor, Tensor]:
        """What is subtracted, and the scale that is divided by."""
        if self.normalisation == "layer_norm":
            return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True) / self.d_in**0.5

    def encode(self, activations: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        x = activations.to(self.inner.dtype)
        shift, scale = self._statistics(x)
        # their epsilon is added on the way in only
        return self.inner.encode((x - shift) / (scale + _EPSILON if self.normalisation == "layer_norm" else scale))

    def decode_like(
        self, features: Float[Tensor, "*batch d_sae"], activations: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        """Features decoded to the scale of ``activations``."""
        shift, scale = self._statistics(activations.to(self.inner.dtype))
        return self.inner.decode(features) * scale + shift

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        raise PatchError(
            f"this dictionary takes the scale from each activation ({self.normalisation}), which features alone do not "
            "have: use forward(x) or decode_like(features, x)"
        )

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return self.decode_like(self.encode(x), x)
