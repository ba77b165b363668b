"""Sparse codes that nobody had to train: what a dictionary must beat at equal L0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import ArgumentError, ShapeError
from hooked_whisper.features.bases import LinearBasis, axes, pca, random_orthonormal


@dataclass(frozen=True, eq=False)
class KLargest:
    """The ``k`` coefficients of each activation that are largest in size, in an orthonormal basis; the others are 0.

    For an orthonormal basis this is the best code with ``k`` coefficients. An entry of a code that is kept and is 0
    itself counts as not firing.
    """

    basis: LinearBasis
    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not 0 < self.k <= self.basis.n_features:
            raise ArgumentError(f"k is 1 to {self.basis.n_features} coefficients of this basis, not {self.k}")

    @property
    def n_features(self) -> int:
        return self.basis.n_features

    @property
    def d_in(self) -> int:
        return self.basis.directions.shape[1]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.basis.labels

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_features"]:
        if activations.shape[-1] != self.d_in:
            raise ShapeError(f"activations are {activations.shape[-1]} wide, this baseline takes {self.d_in}")
        whole = self.basis.encode(activations)
        chosen = whole.abs().topk(self.k, dim=-1, sorted=False).indices
        return torch.zeros_like(whole).scatter(-1, chosen, whole.gather(-1, chosen))

    def decode(self, features: Float[Tensor, "*batch n_features"]) -> Float[Tensor, "*batch d"]:
        return self.basis.decode(features)


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """``relu((x - mean) . direction)`` for random unit directions, as many as a dictionary has features.

    The control of equal size: the more features there are, the better the best of them looks.
    """

    directions: Float[Tensor, "n_features d"]
    mean: Float[Tensor, "d"]

    @classmethod
    def like(cls, n_features: int, mean: Float[Tensor, "d"], seed: int = 0) -> RandomFeatures:
        return cls(random_directions(n_features, len(mean), seed), mean.float().cpu())

    @property
    def n_features(self) -> int:
        return len(self.directions)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"random {i}" for i in range(self.n_features))

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_features"]:
        return ((activations - self.mean.to(activations)) @ self.directions.to(activations).T).relu()


def random_directions(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    """Unit vectors, drawn evenly. Not from torch's generator: a dictionary's first weights are, of equal seeds too."""
    drawn = torch.from_numpy(np.random.default_rng([seed, 83]).standard_normal((n, d)))
    return (drawn / drawn.norm(dim=1, keepdim=True)).float()


def linear_bases(rows: Float[Tensor, "row d"], seed: int = 0) -> dict[str, LinearBasis]:
    """Axes ("neurons": those of the MLP, or the residual's dimensions), principal and random directions, all centred.

    rows: activations that the mean and the principal directions are taken from: training rows, without padding.
    """
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ShapeError(f"training row {bad} is NaN or infinite: look at the model and the audio behind it")
    mean, d = rows.double().mean(0).float(), rows.shape[1]
    wide = rows.float()
    return {
        "neurons": replace(axes(d), mean=mean.cpu()),
        "pca": pca(wide, min(d, len(wide))),
        "random": replace(random_orthonormal(d, seed=seed), mean=mean.cpu()),
    }


def sparse_baselines(bases: Mapping[str, LinearBasis], l0: float | int) -> dict[str, KLargest]:
    """The bases with ``round(l0)`` coefficients kept, at least one and at most all: the code of equal L0."""
    return {name: KLargest(basis, min(max(1, round(float(l0))), basis.n_features)) for name, basis in bases.items()}
