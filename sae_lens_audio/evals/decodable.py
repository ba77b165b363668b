"""What is scored: anything that turns activations into features and back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from hooked_whisper.protocols import FeatureBasis


@runtime_checkable
class DecodableBasis(FeatureBasis, Protocol):
    """A basis with a way back: a dictionary, a :class:`~hooked_whisper.features.bases.LinearBasis`, a sparse baseline.

    One that cannot decode features alone (:class:`~sae_lens_audio.architectures.NormalizedSAE`, a skip transcoder) has
    ``decode_like(features, activations)``, which is taken where it is there.
    """

    def decode(self, features: Tensor) -> Tensor: ...


def reconstruct(
    codes: DecodableBasis, x: Float[Tensor, "row *d"]
) -> tuple[Float[Tensor, "row n"], Float[Tensor, "row *out"]]:
    """Features of some activations, and what they are decoded to. Half-precision activations are widened first."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    features = codes.encode(wide)
    like = getattr(codes, "decode_like", None)
    return features, codes.decode(features) if like is None else like(features, wide)


def directions(codes: Any) -> Float[Tensor, "n d"]:
    """Decoder rows, one per feature; those of a crosscoder's blocks side by side.

    Raises:
        ArgumentError: the basis has no decoder rows.
    """
    inner = getattr(codes, "inner", None) or getattr(codes, "basis", None) or codes
    rows = getattr(inner, "W_dec", None)
    rows = getattr(inner, "directions", None) if rows is None else rows
    if not isinstance(rows, Tensor):
        raise ArgumentError(f"{type(codes).__name__} has no W_dec, so its features have no directions to compare")
    return rows.detach().flatten(1)
