"""Matrix products of a tile of rows at a time, so that what follows finds the result in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model.kernels import plain_linear, recurring_linear

_CPU_TILE = 256  # rows; 3 MB with 3,072 features
_GPU_TILE = 1 << 27  # pre-activations in a tile on other devices (half a GiB)


def tile_rows(device: torch.device, n_latents: int) -> int:
    """Return the number of rows in a tile."""
    return _CPU_TILE if device.type == "cpu" else max(1, _GPU_TILE // n_latents)


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype of matrix products with ``weight``: that of autocast where it is enabled."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def product(
    x: Float[Tensor, "row m"], weight: Float[Tensor, "m n"], bias: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "row n"]:
    """Return ``x @ weight + bias``, through oneDNN for whole tiles: half the time of MKL on some processors.

    Gradients are not recorded.
    """
    # few shapes, since oneDNN prepares each: whole tiles, whose rows are the first or the summed axis
    kernel = recurring_linear if _CPU_TILE in x.shape else plain_linear
    with torch.no_grad():
        return kernel(x, weight.T, bias)


def pre_activation_tiles(
    x: Float[Tensor, "row d"], weight: Float[Tensor, "d d_sae"], bias: Float[Tensor, "d_sae"]
) -> Iterator[Float[Tensor, "tile d_sae"]]:
    """Yield ``x @ weight + bias`` of each tile of rows, in the dtype of autocast where it is enabled."""
    dtype = product_dtype(weight)
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    for rows in x.split(tile_rows(x.device, weight.shape[1])):
        yield product(rows.to(dtype), weight, bias)
