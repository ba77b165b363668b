"""Sparse baselines without training, which an SAE should beat at equal L0."""

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
    """Keeps the ``k`` coefficients of largest absolute value of each activation in a basis; the others are 0.

    For an orthonormal basis this is the best approximation with ``k`` coefficients. A kept coefficient that is 0 counts
    as not firing.
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
        coefficients = self.basis.encode(activations)
        largest = coefficients.abs().topk(self.k, dim=-1, sorted=False).indices
        return torch.zeros_like(coefficients).scatter(-1, largest, coefficients.gather(-1, largest))

    def decode(self, features: Float[Tensor, "*batch n_features"]) -> Float[Tensor, "*batch d"]:
        return self.basis.decode(features)


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """``relu((x - mean) . direction)`` for as many random unit directions as an SAE has features.

    A control of equal size, since the best of more features scores higher by chance.
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
    """Draw uniform unit vectors, with NumPy: with torch and the same seed they would equal an SAE's initial weights."""
    vectors = torch.from_numpy(np.random.default_rng([seed, 83]).standard_normal((n, d)))
    return (vectors / vectors.norm(dim=1, keepdim=True)).float()


def linear_bases(rows: Float[Tensor, "row d"], seed: int = 0) -> dict[str, LinearBasis]:
    """Return axes ("neurons": MLP neurons or residual dimensions), principal and random directions, all centered.

    rows: training activations without padding, for the mean and the principal directions.

    Raises:
        ShapeError: a row is not finite.
    """
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise ShapeError(f"training row {bad} is NaN or infinite: check the model and the audio")
    mean, d = rows.double().mean(0).float(), rows.shape[1]
    wide = rows.float()
    return {
        "neurons": replace(axes(d), mean=mean.cpu()),
        "pca": pca(wide, min(d, len(wide))),
        "random": replace(random_orthonormal(d, seed=seed), mean=mean.cpu()),
    }


def sparse_baselines(bases: Mapping[str, LinearBasis], l0: float | int) -> dict[str, KLargest]:
    """Return the bases with ``round(l0)`` coefficients kept (at least one, at most all), to compare at equal L0."""
    return {name: KLargest(basis, min(max(1, round(float(l0))), basis.n_features)) for name, basis in bases.items()}
