"""Decoder norms: the unit-norm constraint, its gradient projection, and folding norms into the encoder."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ShapeError


@torch.no_grad()
def normalize_rows_(rows: Float[Tensor, "d_sae d"]) -> None:
    """Scale every row to norm 1, in place; rows of zeros stay zero."""
    norms = rows.norm(dim=1, keepdim=True)
    rows.div_(torch.where(norms > 0, norms, 1))


@torch.no_grad()
def remove_parallel_gradient_(gradient: Float[Tensor, "d_sae d"], rows: Float[Tensor, "d_sae d"]) -> None:
    """Remove the component of each row's gradient along the row, in place: ``g - (g . w) w / |w|^2``.

    Source: Bricken et al. 2023, "Towards Monosemanticity", appendix on the autoencoder's training.
    """
    squared = torch.linalg.vecdot(rows, rows)
    along = torch.linalg.vecdot(gradient, rows) / torch.where(squared > 0, squared, 1)
    gradient.addcmul_(rows, along[:, None], value=-1)


def decoder_norms(rows: Float[Tensor, "d_sae d"], source: str) -> Float[Tensor, "d_sae"]:
    """Return the norm of each row.

    Raises:
        ShapeError: a row is zero and cannot be scaled to norm 1.
    """
    norms = rows.norm(dim=1)
    if not (norms > 0).all():
        empty = int((norms == 0).nonzero()[0])
        raise ShapeError(f"{source}: decoder row {empty} is zero, its norm cannot be folded: drop that feature first")
    return norms
