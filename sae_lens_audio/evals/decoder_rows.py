"""Comparison of decoder directions: duplicates within an SAE, nearest ones in another, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper.errors import ShapeError

DUPLICATE = 0.9
_IN_MEMORY = 1 << 22  # cosines per step: 32 MB in float64


@dataclass(frozen=True, eq=False, repr=False)
class Duplicates(Showing):
    """nearest: cosine of each feature's decoder row with the most similar other row."""

    nearest: Float[np.ndarray, "feature"]

    def summary(self) -> Summary:
        n = len(self.nearest)
        return Summary(f"Duplicates: {self.share:.1%} of {n} features; median nearest cosine {self.median:.3g}")

    @property
    def share(self) -> float:
        """Share of features whose decoder row has a cosine above 0.9 with another."""
        return float((self.nearest > DUPLICATE).mean())

    @property
    def median(self) -> float:
        return float(np.median(self.nearest))


def duplicates(rows: Float[Tensor, "feature d"]) -> Duplicates:
    """Compare each row with the most similar other row. A row of zeros has cosine 0.

    Raises:
        ShapeError: fewer than two rows, or NaN.
    """
    if len(rows) < 2:
        raise ShapeError(f"{len(rows)} feature has no other to compare with")
    unit = unit_rows(rows)
    step = max(1, _IN_MEMORY // len(unit))
    largest = []
    for start in range(0, len(unit), step):
        part = unit[start : start + step]
        cosines = part @ unit.T
        diagonal = torch.arange(len(part), device=unit.device)
        cosines[diagonal, diagonal + start] = -torch.inf
        largest.append(cosines.amax(1))
    return Duplicates(torch.cat(largest).clamp(-1, 1).cpu().numpy())


def nearest(
    a: Float[Tensor, "feature d"], b: Float[Tensor, "other width"]
) -> tuple[Float[np.ndarray, "feature"], Float[np.ndarray, "other"]]:
    """Return the largest cosine of each row of ``a`` with a row of ``b``, and the reverse.

    Raises:
        ShapeError: rows of different widths, no rows, or NaN.
    """
    if a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ShapeError(
            f"directions {list(a.shape)} and {list(b.shape)} cannot be compared: use SAEs of one hook point"
        )
    a, b = unit_rows(a), unit_rows(b)
    step = max(1, _IN_MEMORY // len(b))
    of_a, of_b = [], torch.full((len(b),), -torch.inf, dtype=a.dtype, device=a.device)
    for part in a.split(step):
        cosines = part @ b.T
        of_a.append(cosines.amax(1))
        of_b = torch.maximum(of_b, cosines.amax(0))
    return torch.cat(of_a).clamp(-1, 1).cpu().numpy(), of_b.clamp(-1, 1).cpu().numpy()


def unit_rows(rows: Float[Tensor, "feature d"]) -> Float[Tensor, "feature d"]:
    """Scale rows to norm 1, in float64; rows of zeros stay zero.

    Raises:
        ShapeError: a row is not finite.
    """
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ShapeError(f"the direction of feature {bad} is NaN or infinite")
    wide = rows.detach().double()
    return wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-30)
