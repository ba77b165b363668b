"""Bases of features: axes (neurons, residual dimensions), random and principal directions, centroids, both signs.

Each is a :class:`hooked_whisper.protocols.FeatureBasis`, like a sparse autoencoder: the same functions work on an SAE
and on its controls. Bases with ``decode`` can be patched (:func:`hooked_whisper.interventions.subspaces_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from scipy.linalg import eigh
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import PatchError
from hooked_whisper.protocols import FeatureBasis

_BYTES = 64 << 20  # per block of rows in double precision
_WIDE = 2048  # largest dimension for which all eigenvectors are computed


@dataclass(frozen=True, eq=False, repr=False)
class LinearBasis(Showing):
    """Orthonormal directions: ``features = (activations - mean) @ directions.T``.

    With fewer than d directions, ``decode`` replaces the rest of the activation by the mean.

    Raises:
        PatchError: the number of labels or the width of the mean does not fit, or the directions are not orthonormal.
    """

    directions: Float[Tensor, "n_features d"]
    mean: Float[Tensor, "d"]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        n, d = self.directions.shape
        if len(self.labels) != n or self.mean.shape != (d,):
            raise PatchError(
                f"{n} directions of width {d} got {len(self.labels)} labels and a mean of {list(self.mean.shape)}: "
                f"give {n} labels and a mean of [{d}]"
            )
        if not _orthonormal(self.directions):
            raise PatchError("the directions are not orthonormal: pass torch.linalg.qr(directions.T).Q.T")

    @property
    def n_features(self) -> int:
        return len(self.directions)

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_features"]:
        return (activations - self.mean.to(activations)) @ self.directions.to(activations).T

    def decode(self, features: Float[Tensor, "*batch n_features"]) -> Float[Tensor, "*batch d"]:
        return features @ self.directions.to(features) + self.mean.to(features)


def _orthonormal(directions: Float[Tensor, "n d"]) -> bool:
    """Check the Gram matrix in blocks: that of 5120 neurons takes 200 MiB."""
    step, wide = _rows_at_once(len(directions)), directions.double()
    for start in range(0, len(directions), step):
        gram = wide[start : start + step] @ wide.T
        row = torch.arange(len(gram), device=gram.device)
        gram[row, start + row] -= 1
        if not gram.abs().max() <= 1e-4:
            return False
    return True


def _rows_at_once(d: int) -> int:
    return max(1, _BYTES // (8 * d))


@dataclass(frozen=True, eq=False, repr=False)
class Centroids(Showing):
    """Features are minus half the squared distance to each point: the largest is the nearest centroid's."""

    points: Float[Tensor, "n_features d"]
    labels: tuple[str, ...]

    @property
    def n_features(self) -> int:
        return len(self.points)

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_features"]:
        points = self.points.to(activations)
        products = activations @ points.T
        return products - (activations.square().sum(-1, keepdim=True) + points.square().sum(-1)) / 2


@dataclass(frozen=True, eq=False)
class BothSigns:
    """Each feature and its negative, so that a scan also finds the most negative activations."""

    basis: FeatureBasis

    @property
    def n_features(self) -> int:
        return 2 * self.basis.n_features

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"{sign}{label}" for sign in "+-" for label in self.basis.labels)

    def encode(self, activations: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n_features"]:
        features = self.basis.encode(activations)
        return torch.cat([features, -features], dim=-1)


@renamed_arguments(chosen="indices")
def axes(d: int, indices: Sequence[int] | None = None) -> LinearBasis:
    """Return the axes of a hook point as a basis: neurons of ``mlp.hook_post``, dimensions of the residual.

    Args:
        d: width of the hook point.
        indices: axes to include (default: all).

    Raises:
        PatchError: an index is out of range, or ``indices`` is empty.
    """
    numbers = list(range(d)) if indices is None else list(indices)
    if not numbers or min(numbers) < 0 or max(numbers) >= d:
        raise PatchError(f"axes are {numbers}, expected at least one from 0 to {d - 1}")
    return LinearBasis(torch.eye(d)[numbers], torch.zeros(d), tuple(map(str, numbers)))


def random_orthonormal(d: int, n_features: int | None = None, seed: int = 0) -> LinearBasis:
    """Draw an orthonormal basis uniformly at random: the control for a basis of neurons or learned features.

    The directions are the QR decomposition of a Gaussian matrix, with corrected signs.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups".
    """
    n = d if n_features is None else n_features
    if not 0 < n <= d:
        raise PatchError(f"n_features is {n}, expected 1 to {d} orthonormal directions in {d} dimensions")
    drawn = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    reflectors, tau = torch.geqrf(drawn)  # what torch.linalg.qr does, without holding four matrices
    del drawn
    sign = reflectors.diagonal().sign().clone()
    q = torch.linalg.householder_product(reflectors, tau)
    del reflectors
    directions = q.mul_(sign).T[:n].float()
    return LinearBasis(directions, torch.zeros(d), tuple(f"random {i}" for i in range(n)))


def pca(activations: Float[Tensor, "row d"], n_features: int | None = None) -> LinearBasis:
    """Compute principal directions of activations, largest variance first; each points to its positive skew.

    Pass activations of speech, without padding.

    Raises:
        PatchError: ``n_features`` exceeds the number of rows or their width.
    """
    n = min(activations.shape) if n_features is None else n_features
    if not 0 < n <= min(activations.shape):
        raise PatchError(
            f"n_features is {n}, expected 1 to {min(activations.shape)} principal directions of {activations.shape[0]} "
            f"rows of width {activations.shape[1]}"
        )
    rows = activations.detach()
    parts = rows.split(_rows_at_once(rows.shape[1]))
    mean = reduce(add, (x.double().sum(0) for x in parts)) / len(rows)
    centered = (x.double() - mean for x in parts)
    gram = reduce(add, (x.T @ x for x in centered))
    directions = _largest(gram, n)
    del gram
    skew = reduce(add, (((x.double() - mean) @ directions.T).pow(3).sum(0) for x in parts))
    directions = directions * torch.where(skew < 0, -1.0, 1.0)[:, None]
    return LinearBasis(directions.float(), mean.float(), tuple(f"pc {i}" for i in range(n)))


def _largest(gram: Float[Tensor, "d d"], n: int) -> Float[Tensor, "n d"]:
    """Eigenvectors of the n largest eigenvalues. For wide matrices, the others are not computed."""
    d = len(gram)
    if d <= _WIDE or n > d // 2:
        return torch.linalg.eigh(gram)[1].T.flip(0)[:n]
    _, vectors = eigh(gram.cpu().numpy().T, subset_by_index=[d - n, d - 1], overwrite_a=True, check_finite=False)
    return torch.from_numpy(vectors.T[::-1].copy()).to(gram)


def kmeans(activations: Float[Tensor, "row d"], n_features: int, seed: int = 0, iterations: int = 30) -> Centroids:
    """Cluster activations with k-means (scipy, started by k-means++) and return the centroids.

    Raises:
        PatchError: ``n_features`` exceeds the number of rows, or a cluster stays empty.
    """
    if not 0 < n_features <= len(activations):
        raise PatchError(f"n_features is {n_features}, expected 1 to {len(activations)}, the number of rows")
    rows = activations.detach().double().cpu().numpy()
    try:
        points, _ = kmeans2(rows, n_features, iter=iterations, minit="++", missing="raise", seed=seed)
    except Exception as error:  # scipy's ClusterError is not public
        raise PatchError(f"k-means with {n_features} centroids failed: {error}; use fewer") from error
    return Centroids(torch.from_numpy(points).float(), tuple(f"centroid {i}" for i in range(n_features)))
