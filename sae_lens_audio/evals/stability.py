"""Stability of features across seeds: decoder directions of several SAEs matched by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing, Summary, counted
from hooked_whisper.errors import ArgumentError, ShapeError
from sae_lens_audio.evals.baselines import random_directions
from sae_lens_audio.evals.decodable import directions
from sae_lens_audio.evals.decoder_rows import nearest, unit_rows

FOUND_AGAIN = 0.7
LARGEST_ASSIGNMENT = 8192  # features; the cost matrix takes half a GiB and the matching a few minutes


@dataclass(frozen=True, eq=False, repr=False)
class Match(Showing):
    """The features of two SAEs, matched by the cosine of their decoder rows.

    nearest: largest cosine of each feature (of the first SAE, then of the second) with a feature of the other; several
        features may match the same one.
    assigned: cosines of the one-to-one matching with the largest sum; empty if it was not computed.
    """

    names: tuple[str, str]
    nearest: Float[np.ndarray, "feature"]
    assigned: Float[np.ndarray, "pair"]

    def summary(self) -> Summary:
        names = ("mean_max_cosine", "found_again", "mean_assigned", "assigned_again")
        rows = tuple((name.replace("_", " "), getattr(self, name)) for name in names)
        return Summary(f"Match: {self.names[0]} and {self.names[1]}", rows=rows)

    @property
    def mean_max_cosine(self) -> float:
        return float(self.nearest.mean())

    @property
    def found_again(self) -> float:
        """Share of features of both SAEs with a cosine above 0.7 to a feature of the other."""
        return float((self.nearest > FOUND_AGAIN).mean())

    @property
    def mean_assigned(self) -> float:
        """Mean cosine of the one-to-one matching; 1 minus it is the SAE distance of overcomplete."""
        return float(self.assigned.mean()) if len(self.assigned) else float("nan")

    @property
    def assigned_again(self) -> float:
        """Share of one-to-one pairs with a cosine above 0.7."""
        return float((self.assigned > FOUND_AGAIN).mean()) if len(self.assigned) else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Showing):
    """Matches of every pair of SAEs, and of chance.

    pairs: all pairs. random: each SAE with as many random unit directions. itself: the first SAE with itself in another
        order, as a check: cosines must be 1.
    """

    pairs: tuple[Match, ...]
    random: tuple[Match, ...]
    itself: Match

    def summary(self) -> Summary:
        names = ("mean_max_cosine", "found_again", "mean_assigned", "assigned_again")
        chance = [self.mean(name, "random") if self.random else None for name in names]
        rows = tuple((name.replace("_", " "), self.mean(name), k) for name, k in zip(names, chance, strict=True))
        title = f"Stability: {counted(len(self.pairs), 'pair')} of SAEs"
        return Summary(title, (), ("measure", "SAEs", "random directions"), rows)

    def mean(self, measure: str, among: str = "pairs") -> float:
        """Return the mean of ``mean_max_cosine``, ``found_again``, ... over ``"pairs"`` or ``"random"``."""
        return float(np.mean([getattr(match, measure) for match in getattr(self, among)]))


@renamed_arguments(dictionaries="saes")
def stability(
    saes: Mapping[str, Any],
    alive: Mapping[str, Bool[np.ndarray, "feature"]] | None = None,
    seed: int = 0,
) -> Stability:
    """Match the decoder rows of every two SAEs that differ only in their training seed.

    Signs matter, since a feature fires in one direction. The one-to-one matching takes cubic time and is skipped above
    8192 features.

    Args:
        saes: two or more, of one hook point.
        alive: mask of the features that fire; the others were not trained and are excluded.

    Raises:
        ArgumentError: fewer than two SAEs, or one without a feature that fires.
        ShapeError: decoder rows of different widths, or ``alive`` of another length.

    Sources: the share of features found again across seeds: AudioSAE (arXiv 2602.05027), and Paulo and Belrose 2025
    (arXiv 2501.16615) for the one-to-one matching; its mean cosine: ``hungarian_loss`` of overcomplete (Fel et al.
    2025).
    """
    if len(saes) < 2:
        raise ArgumentError(f"stability compares two SAEs or more, got {len(saes)}")
    rows = {name: directions(sae) for name, sae in saes.items()}
    for name, mask in (alive or {}).items():
        if name not in rows or len(mask) != len(rows[name]):
            raise ShapeError(f"alive[{name!r}] has {len(mask)} features, which is not what that SAE has")
        rows[name] = rows[name][torch.from_numpy(mask).to(rows[name].device)]
    for name, x in rows.items():
        if not len(x):
            raise ArgumentError(f"no feature of {name} fires, so none can recur in another SAE: train it")
    pairs = tuple(match((a, b), rows[a], rows[b]) for a, b in combinations(rows, 2))
    random = tuple(
        match((name, "random"), x, random_directions(x.shape[0], x.shape[1], seed + k))
        for k, (name, x) in enumerate(rows.items())
    )
    first = next(iter(rows))
    permuted = rows[first][torch.randperm(len(rows[first]), generator=torch.Generator().manual_seed(seed))]
    return Stability(pairs, random, match((first, first), rows[first], permuted))


def match(names: Sequence[str], a: Float[Tensor, "feature d"], b: Float[Tensor, "other width"]) -> Match:
    """Match two sets of directions: nearest ones, and one to one."""
    from scipy.optimize import linear_sum_assignment

    a, b = a.cpu(), b.cpu()
    of_a, of_b = nearest(a, b)
    assigned = np.zeros(0)
    if max(len(a), len(b)) <= LARGEST_ASSIGNMENT:
        cosines = (unit_rows(a) @ unit_rows(b).T).clamp(-1, 1).numpy()
        assigned = cosines[linear_sum_assignment(cosines, maximize=True)]
    return Match((names[0], names[1]), np.concatenate([of_a, of_b]), assigned)
