"""Whether another seed finds the same features: decoder directions of several dictionaries matched by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError, ShapeError
from sae_lens_audio.evals.baselines import random_directions
from sae_lens_audio.evals.decodable import directions
from sae_lens_audio.evals.decoder_rows import nearest, unit_rows

FOUND_AGAIN = 0.7
LARGEST_ASSIGNMENT = 8192  # features: a cost matrix of half a GiB, and a few minutes


@dataclass(frozen=True, eq=False)
class Match:
    """Two dictionaries' features matched by the cosine of their decoder rows.

    nearest: for each feature of both (those of the first, then of the second) the largest cosine with one of the other;
        one that several share counts for all of them.
    assigned: cosines of the one-to-one matching with the largest sum; empty where it was not made.
    """

    names: tuple[str, str]
    nearest: Float[np.ndarray, "feature"]
    assigned: Float[np.ndarray, "pair"]

    @property
    def mean_max_cosine(self) -> float:
        return float(self.nearest.mean())

    @property
    def found_again(self) -> float:
        """Share of the features of both that have one with a cosine above 0.7 in the other."""
        return float((self.nearest > FOUND_AGAIN).mean())

    @property
    def mean_assigned(self) -> float:
        """Mean cosine of the one-to-one matching; 1 minus it is overcomplete's distance of dictionaries."""
        return float(self.assigned.mean()) if len(self.assigned) else float("nan")

    @property
    def assigned_again(self) -> float:
        """Share of the one-to-one pairs with a cosine above 0.7."""
        return float((self.assigned > FOUND_AGAIN).mean()) if len(self.assigned) else float("nan")


@dataclass(frozen=True, eq=False)
class Stability:
    """Every pair of dictionaries, and what chance gives.

    pairs: all of them; random: each dictionary against random unit directions, as many; itself: the first one against
        itself in another order, which must be 1.
    """

    pairs: tuple[Match, ...]
    random: tuple[Match, ...]
    itself: Match

    def mean(self, measure: str, among: str = "pairs") -> float:
        """Mean over pairs (or ``"random"``) of ``mean_max_cosine``, ``found_again``, ``mean_assigned``, ..."""
        return float(np.mean([getattr(one, measure) for one in getattr(self, among)]))


def stability(
    dictionaries: Mapping[str, Any],
    alive: Mapping[str, Bool[np.ndarray, "feature"]] | None = None,
    seed: int = 0,
) -> Stability:
    """Match the decoder rows of every two dictionaries, which were trained alike but for the seed.

    Signs count: a feature fires one way. Matching one to one takes time with the cube of the number of features, and is
    left out above 8192.

    Args:
        dictionaries: two or more, of one hook point.
        alive: features of each that fire; the others, which nobody trained, are left out.

    Raises:
        ArgumentError: fewer than two SAEs, or one without a feature that fires.
        ShapeError: decoder rows of different widths, or ``alive`` of another length.

    Sources: the share of features found again across seeds: AudioSAE (arXiv 2602.05027), and Paulo and Belrose 2025
    (arXiv 2501.16615) for the one-to-one matching; its mean cosine: ``hungarian_loss`` of overcomplete (Fel et al.
    2025).
    """
    if len(dictionaries) < 2:
        raise ArgumentError(f"stability compares two SAEs or more, got {len(dictionaries)}")
    rows = {name: directions(one) for name, one in dictionaries.items()}
    for name, chosen in (alive or {}).items():
        if name not in rows or len(chosen) != len(rows[name]):
            raise ShapeError(f"alive[{name!r}] has {len(chosen)} features, which is not what that SAE has")
        rows[name] = rows[name][torch.from_numpy(chosen).to(rows[name].device)]
    for name, found in rows.items():
        if not len(found):
            raise ArgumentError(f"no feature of {name} fires, so none can be found again: train it")
    pairs = tuple(match((a, b), rows[a], rows[b]) for a, b in combinations(rows, 2))
    random = tuple(
        match((name, "random"), x, random_directions(x.shape[0], x.shape[1], seed + k))
        for k, (name, x) in enumerate(rows.items())
    )
    first = next(iter(rows))
    turned = rows[first][torch.randperm(len(rows[first]), generator=torch.Generator().manual_seed(seed))]
    return Stability(pairs, random, match((first, first), rows[first], turned))


def match(names: Sequence[str], a: Float[Tensor, "feature d"], b: Float[Tensor, "other width"]) -> Match:
    """Two sets of directions, nearest ones and one to one."""
    from scipy.optimize import linear_sum_assignment

    one, other = a.cpu(), b.cpu()
    forth, back = nearest(one, other)
    assigned = np.zeros(0)
    if max(len(one), len(other)) <= LARGEST_ASSIGNMENT:
        cosines = (unit_rows(one) @ unit_rows(other).T).clamp(-1, 1).numpy()
        assigned = cosines[linear_sum_assignment(cosines, maximize=True)]
    return Match((names[0], names[1]), np.concatenate([forth, back]), assigned)
