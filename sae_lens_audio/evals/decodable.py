"""Reconstructions and decoder directions of anything that encodes and decodes activations."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from sae_lens_audio.architectures import DecodableBasis


def reconstruct(
    basis: DecodableBasis, x: Float[Tensor, "row *d"]
) -> tuple[Float[Tensor, "row n"], Float[Tensor, "row *out"]]:
    """Return features and reconstructions. Half-precision activations are converted to float32 first."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    features = basis.encode(wide)
    decode_like = getattr(basis, "decode_like", None)
    return features, basis.decode(features) if decode_like is None else decode_like(features, wide)


def directions(basis: Any) -> Float[Tensor, "n d"]:
    """Return the decoder rows, one per feature; for a crosscoder those of all blocks concatenated.

    Raises:
        ArgumentError: the basis has no decoder rows.
    """
    inner = getattr(basis, "inner", None) or getattr(basis, "basis", None) or basis
    rows = getattr(inner, "W_dec", None)
    rows = getattr(inner, "directions", None) if rows is None else rows
    if not isinstance(rows, Tensor):
        raise ArgumentError(f"{type(basis).__name__} has no W_dec, so its features have no directions to compare")
    return rows.detach().flatten(1)
