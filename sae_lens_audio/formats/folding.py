"""Folding of scales into the weights, so that the SAE takes raw activations.

All functions take the tensors of a file in SAELens' layout and return new ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import CheckpointError, ShapeError
from sae_lens_audio.architectures import decoder_norms

_ENCODER_BIASES = ("b_enc", "b_gate", "b_mag")  # scale with the features


def fold_decoder_norms(tensors: dict[str, Tensor], source: object) -> dict[str, Tensor]:
    """Scale decoder rows to norm 1 and features by the old norms, which ``rescale_acts_by_decoder_norm`` ranks by.

    A ``threshold`` per feature is scaled with its feature; a ``topk_threshold`` is in these units already.

    Raises:
        CheckpointError: a decoder row of zeros.
    """
    try:
        norms = decoder_norms(tensors["W_dec"], str(source))
    except ShapeError as error:
        raise CheckpointError(str(error)) from None
    scaled = {name: tensors[name] * norms for name in (*_ENCODER_BIASES, "threshold") if name in tensors}
    return tensors | scaled | {"W_enc": tensors["W_enc"] * norms, "W_dec": tensors["W_dec"] / norms[:, None]}


def fold_scaling(tensors: dict[str, Tensor], factor: float | int, ranked_by_norm: bool) -> dict[str, Tensor]:
    """Fold the factor of an SAE trained on activations times ``factor``: ``W_enc`` times it, decoder divided by it.

    ``ranked_by_norm``: the ``topk_threshold`` is in units of features times decoder norms, and is divided too.
    """
    folded = tensors | {
        "W_enc": tensors["W_enc"] * factor,
        "W_dec": tensors["W_dec"] / factor,
        "b_dec": tensors["b_dec"] / factor,
    }
    if ranked_by_norm and "topk_threshold" in tensors:
        folded["topk_threshold"] = tensors["topk_threshold"] / factor
    return folded


def fold_whitening(
    tensors: dict[str, Tensor],
    mean: Float[Tensor, "d"],
    matrix: Float[Tensor, "d d"],
    inverse: Float[Tensor, "d d"],
    centered: bool,
) -> dict[str, Tensor]:
    """Fold the whitening of an SAE trained on ``(x - mean) @ matrix``.

    ``centered``: ``b_dec`` is subtracted from the input, so the folded ``b_dec`` also subtracts the mean; otherwise the
    encoder biases do.
    """
    dtype = tensors["W_enc"].dtype
    wide = torch.promote_types(dtype, matrix.dtype)
    encoder = matrix.to(wide) @ tensors["W_enc"].to(wide)
    folded = tensors | {
        "W_enc": encoder,
        "W_dec": tensors["W_dec"].to(wide) @ inverse.to(wide),
        "b_dec": tensors["b_dec"].to(wide) @ inverse.to(wide) + mean.to(wide),
    }
    if not centered:
        shift = mean.to(wide) @ encoder
        for name in _ENCODER_BIASES:
            if name in tensors:
                gain = tensors["r_mag"].to(wide).exp() if name == "b_mag" else 1
                folded[name] = tensors[name].to(wide) - shift * gain
    return {name: tensor.to(tensors[name].dtype) for name, tensor in folded.items()}
