"""Directions of features compared: copies within a dictionary, nearest ones in another. Memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ShapeError

DUPLICATE = 0.9
_AT_ONCE = 1 << 22  # cosines in memory at once: 32 MB in float64


@dataclass(frozen=True, eq=False)
class Duplicates:
    """nearest: cosine of each feature's decoder row with the likest other row; -1 is the least there is."""

    nearest: Float[np.ndarray, "feature"]

    @property
    def share(self) -> float:
        """Share of the features whose decoder row has a cosine above 0.9 with another's."""
        return float((self.nearest > DUPLICATE).mean())

    @property
    def median(self) -> float:
        return float(np.median(self.nearest))


def duplicates(rows: Float[Tensor, "feature d"]) -> Duplicates:
    """How like each row is to the likest other one. A row of zeros is like none (cosine 0).

    Raises:
        ShapeError: fewer than two rows, NaN.
    """
    if len(rows) < 2:
        raise ShapeError(f"{len(rows)} feature has no other to be a duplicate of")
    unit = unit_rows(rows)
    step = max(1, _AT_ONCE // len(unit))
    found = []
    for at in range(0, len(unit), step):
        part = unit[at : at + step]
        cosines = part @ unit.T
        own = torch.arange(len(part), device=unit.device)
        cosines[own, own + at] = -torch.inf
        found.append(cosines.amax(1))
    return Duplicates(torch.cat(found).clamp(-1, 1).cpu().numpy())


def nearest(
    a: Float[Tensor, "feature d"], b: Float[Tensor, "other width"]
) -> tuple[Float[np.ndarray, "feature"], Float[np.ndarray, "other"]]:
    """For each row of ``a`` the largest cosine with a row of ``b``, and the other way round.

    Raises:
        ShapeError: rows of different widths, no rows, NaN.
    """
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ShapeError(f"directions {list(a.shape)} and {list(b.shape)} cannot be compared: take one hook point")
    one, other = unit_rows(a), unit_rows(b)
    step = max(1, _AT_ONCE // len(other))
    forth, back = [], torch.full((len(other),), -torch.inf, dtype=one.dtype, device=one.device)
    for part in one.split(step):
        cosines = part @ other.T
        forth.append(cosines.amax(1))
        back = torch.maximum(back, cosines.amax(0))
    return torch.cat(forth).clamp(-1, 1).cpu().numpy(), back.clamp(-1, 1).cpu().numpy()


def unit_rows(rows: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Rows of norm 1, float64; rows of zeros stay so. Raises :class:`ShapeError` for NaN or infinity."""
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ShapeError(f"the direction of feature {bad} is NaN or infinite")
    wide = rows.detach().double()
    return wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-30)
