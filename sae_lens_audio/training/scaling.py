"""Activations brought to one scale for training, and the dictionary brought back to theirs afterwards."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_audio.architectures import SAE, BatchTopK, Crosscoder, Tied, Transcoder
from sae_lens_audio.errors import TrainingError

_BIASES = ("b_enc", "b_gate", "b_mag", "threshold", "topk_threshold")  # in units of features


def unit_scale(rows: Float[Tensor, "row d"]) -> float:
    """What makes the mean squared distance of a row from the mean equal to its width.

    Raises:
        TrainingError: rows that are all the same, or not finite.
    """
    spread = (rows - rows.mean(0)).square().sum(1).mean().item()
    if not 0 < spread < float("inf"):
        raise TrainingError(f"activations of the first batch have a mean squared spread of {spread}: nothing to learn")
    return float((rows.shape[1] / spread) ** 0.5)


@torch.no_grad()
def fit_encoder_(sae: SAE, rows: Sequence[Float[Tensor, "row _"]]) -> None:
    """``W_enc`` times the factor by which reconstructions, without ``b_dec``, come nearest to the rows."""
    if isinstance(sae, (Tied, Transcoder)):
        return
    x = torch.stack(list(rows), 1) if isinstance(sae, Crosscoder) else rows[0]
    features = sae.sparse_codes(x).dense(len(x)) if isinstance(sae, BatchTopK) else sae.encode(x)
    made, wanted = sae.decode(features) - sae.b_dec, x - sae.b_dec
    factor = (made * wanted).sum() / made.square().sum()
    if factor > 0 and factor.isfinite():
        sae.W_enc.mul_(factor)


@torch.no_grad()
def unscaled(sae: SAE, scales: Sequence[float]) -> SAE:
    """A copy that takes raw activations, for a dictionary trained on them times ``scales`` (one per hook point).

    An autoencoder's features get the activations' units, so that rows of the decoder keep their norm. Features and
    reconstructions are the same but for those units.
    """
    sae = copy.deepcopy(sae)
    if isinstance(sae, Crosscoder):
        each = torch.tensor(scales, dtype=sae.dtype, device=sae.b_dec.device)
        sae.W_enc.mul_(each[:, None, None])
        sae.W_dec.div_(each[:, None])
        sae.b_dec.div_(each[:, None])
        return sae
    inner, outer = (scales[0], scales[-1]) if isinstance(sae, Transcoder) else (scales[0], scales[0])
    for name in _BIASES:
        if name in sae.state_dict():
            getattr(sae, name).div_(inner)
    if "b_dec" in sae.state_dict():
        sae.b_dec.div_(outer)
    if isinstance(sae, Transcoder):
        sae.W_dec.mul_(inner / outer)
        if sae.config.skip:
            sae.W_skip.mul_(inner / outer)
    return sae


def has_threshold(sae: SAE) -> bool:
    """Whether a BatchTopK dictionary has been trained enough to encode; others always can."""
    return not isinstance(sae, BatchTopK) or not bool(sae.topk_threshold.isnan())
