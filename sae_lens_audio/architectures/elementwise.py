"""The pass of a training loss for activation functions that act on each pre-activation alone: ReLU, JumpReLU, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_audio.architectures.dense_tiles import Activation, autoencode_tiles
from sae_lens_audio.architectures.sparse import SparseFeatureActs, encode_above

MOST_SPARSE = 0.08
"""Share of pre-activations up to which sums over entries are used: they take less time and memory than dense tiles.

Measured with JumpReLU (``d_in`` 384, ``d_sae`` 3072, 4,096 rows, one thread with AVX-512). Milliseconds per loss and
gradient: sparse 94, 143, 310 and 464 at shares of .008, .03, .10 and .16; dense 420. Memory: sparse 39, 67, 109 and 148
MB at .008, .03, .07 and .11; dense 121. Sums over entries are faster up to .14; both scale with ``d_in``.
"""


@dataclass(frozen=True, eq=False)
class Autoencoded:
    """decoded: sums of decoder rows, without bias, one matrix per decoder. penalty: of each row, summed over its
    features. active: number of rows in which each feature is above 0.
    """

    decoded: tuple[Float[Tensor, "row d_out"], ...]
    penalty: Float[Tensor, "row"]
    active: Int[Tensor, "d_sae"]


@dataclass(frozen=True, eq=False)
class EncoderWeights:
    """``(x - center) @ weight + bias``."""

    weight: Float[Tensor, "d d_sae"]
    bias: Float[Tensor, "d_sae"]
    center: Float[Tensor, "d"] | None


def autoencode(
    x: Float[Tensor, "row d"],
    encoder: EncoderWeights,
    decoders: Sequence[Float[Tensor, "d_sae d_out"]],
    activation: Activation,
    parameters: Sequence[Float[Tensor, "d_sae"]] = (),
    *,
    lower: Float[Tensor, "d_sae"] | None = None,
    constant: bool = True,
) -> Autoencoded:
    """Encode and decode a batch, with gradients for all weights but none for ``x``.

    If few pre-activations exceed ``lower``, only these are decoded and differentiated; otherwise all are, a tile of
    rows at a time. Both give the same numbers, within rounding.

    Args:
        lower: at least 0, which is the default. At or below it, ``activation`` has the value that it has at 0, and no
            gradient for the pre-activation.
        constant: whether it has no gradient for ``parameters`` there either, and is 0.
    """
    acts = None
    if x.device.type == "cpu":
        lower = torch.zeros_like(encoder.bias) if lower is None else lower
        acts = encode_above(x, encoder.weight, encoder.bias, encoder.center, lower, MOST_SPARSE)
    if acts is None:
        with torch.no_grad():
            centered = x if encoder.center is None else x - encoder.center
        return Autoencoded(*autoencode_tiles(
            centered, encoder.weight, encoder.bias, encoder.center, decoders, activation, parameters
        ))  # fmt: skip
    latents = acts.entries.latents
    features, penalties = activation(acts.values, *(p.index_select(0, latents) for p in parameters))
    active = replace(acts, values=features[0]).active
    penalty = _sum_by_row(penalties, acts)
    if constant:
        decoded = [replace(acts, values=f).decode(w) for f, w in zip(features, decoders, strict=True)]
        return Autoencoded(tuple(decoded), penalty, active)
    # every feature that is no entry has these values: decode them for all rows, and the entries' differences from them
    constants, penalty_of_constants = activation(torch.zeros_like(encoder.bias), *parameters)
    decoded = [
        replace(acts, values=f - c.index_select(0, latents)).decode(w) + c @ w
        for f, c, w in zip(features, constants, decoders, strict=True)
    ]
    penalty = penalty + penalty_of_constants.sum() - _sum_by_row(penalty_of_constants.index_select(0, latents), acts)
    return Autoencoded(tuple(decoded), penalty, active)


def _sum_by_row(values: Float[Tensor, "entry"], acts: SparseFeatureActs) -> Float[Tensor, "row"]:
    return values.new_zeros(len(acts.entries.offsets)).index_add(0, acts.entries.bags, values)
