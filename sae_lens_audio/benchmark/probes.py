"""Linear probes of one class against the rest: ridge regression in closed form, and logistic regression on a few
features.

Neither has a seed, so a benchmark that is run again yields the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PENALTY = 0.01  # ridge: added to the variance of every feature, which is 1
LOGISTIC_PENALTY = 1.0  # of squared weights, against a sum over rows: C = 1 in scikit-learn
STEPS = 15  # of Newton's method
_HALVINGS = 5
_CONVERGED = 1e-3  # change of a weight, for features of standard deviation 1


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """One linear score per class."""

    weight: Float[Tensor, "class d"]
    bias: Float[Tensor, "class"]

    def scores(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row class"]:
        return x @ self.weight.T + self.bias


@dataclass(frozen=True, eq=False)
class RidgeSums:
    """Sums over rows from which probes follow; those of disjoint rows add.

    Attributes:
        products: of features. total, n: sum of features and number of rows.
        sums, counts: the same of each class. A row may belong to no class, or to several.
    """

    products: Float[Tensor, "d d"]
    total: Float[Tensor, "d"]
    n: Float[Tensor, ""]
    sums: Float[Tensor, "class d"]
    counts: Float[Tensor, "class"]

    @classmethod
    def zero(cls, d: int, n_classes: int, dtype: torch.dtype = torch.float32) -> RidgeSums:
        shapes = ((d, d), (d,), (), (n_classes, d), (n_classes,))
        return cls(*(torch.zeros(shape, dtype=dtype) for shape in shapes))

    def add_(self, x: Float[Tensor, "row d"], y: Bool[Tensor, "row class"]) -> None:
        """Add rows in place."""
        self.products.addmm_(x.T, x)
        self.total.add_(x.sum(0))
        self.n.add_(len(x))
        self.sums.addmm_(y.T.to(x.dtype), x)
        self.counts.add_(y.sum(0))

    def __add__(self, other: RidgeSums) -> RidgeSums:
        return RidgeSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: RidgeSums) -> RidgeSums:
        return RidgeSums(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def probe(self, penalty: float = PENALTY) -> LinearProbe:
        """Return the ridge regression of each class, as 1 against 0, on standardized features.

        Its direction is that of a linear discriminant analysis of the class against the rest. Features that do not vary
        have weight 0.
        """
        mean = self.total / self.n
        covariance = (self.products / self.n).addr_(mean, mean, alpha=-1)
        variance = covariance.diagonal().clamp_min(0)
        scale = torch.where(variance > 1e-9 * variance.max(), variance, torch.inf).rsqrt()
        covariance.mul_(scale).mul_(scale[:, None]).diagonal().add_(penalty)
        share = self.counts / self.n
        effect = (self.sums / self.n - share[:, None] * mean) * scale
        factor = torch.linalg.cholesky(covariance)
        weight = torch.cholesky_solve(effect.T, factor).T * scale
        return LinearProbe(weight.contiguous(), share - weight @ mean)


def linear_probe(x: Float[Tensor, "row d"], y: Bool[Tensor, "row class"], penalty: float = PENALTY) -> LinearProbe:
    """Fit one ridge regression per class in float64 and return it in the type of ``x``."""
    center = x.double().mean(0)
    moments = RidgeSums.zero(x.shape[1], y.shape[1], torch.float64)
    moments.add_(x.double() - center, y)
    probe = moments.probe(penalty)
    return LinearProbe(probe.weight.to(x.dtype), (probe.bias - probe.weight @ center).to(x.dtype))


@dataclass(frozen=True, eq=False)
class LogisticProbes:
    """Logistic regressions, each on its own few features."""

    weight: Float[Tensor, "probe k"]
    bias: Float[Tensor, "probe"]

    def scores(self, x: Float[Tensor, "probe row k"]) -> Float[Tensor, "probe row"]:
        """Return log-odds."""
        return torch.einsum("prk,pk->pr", x, self.weight) + self.bias[:, None]


def logistic_probes(
    x: Float[Tensor, "probe row k"], y: Bool[Tensor, "probe row"], penalty: float = LOGISTIC_PENALTY
) -> LogisticProbes:
    """Fit logistic regressions with an L2 penalty on standardized features, all at once, by Newton's method."""
    mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0)
    scale = torch.where(deviation > 1e-12, 1 / deviation, 0.0)
    z = torch.cat([(x - mean) * scale, torch.ones_like(x[..., :1])], 2)
    target = y.to(x.dtype)
    decay = torch.full((z.shape[2],), penalty, dtype=x.dtype)
    decay[-1] = 1e-6  # the intercept is free, but a class without rows must not send it to infinity
    weight = z.new_zeros(z.shape[0], z.shape[2])
    share = target.mean(1).clamp(1e-6, 1 - 1e-6)
    weight[:, -1] = share.logit()
    loss = _loss(z, target, weight, decay)
    for _ in range(STEPS):
        p = torch.einsum("prk,pk->pr", z, weight).sigmoid()
        gradient = torch.einsum("prk,pr->pk", z, p - target) + decay * weight
        curvature = (z * (p * (1 - p))[..., None]).transpose(1, 2) @ z + torch.diag(decay)
        step = torch.linalg.solve(curvature.double(), gradient.double()).to(x.dtype)
        for _ in range(_HALVINGS):
            candidate = weight - step
            value = _loss(z, target, candidate, decay)
            worse = ~(value <= loss + 1e-6 * loss.abs())
            if not worse.any():
                break
            step = torch.where(worse[:, None], step / 2, step)
        weight = torch.where(worse[:, None], weight, candidate)
        loss = torch.where(worse, loss, value)
        if step.abs().max() < _CONVERGED:
            break
    slope = weight[:, :-1] * scale[:, 0]
    return LogisticProbes(slope, weight[:, -1] - (slope * mean[:, 0]).sum(1))


def _loss(
    z: Float[Tensor, "probe row k"],
    target: Float[Tensor, "probe row"],
    weight: Float[Tensor, "probe k"],
    decay: Float[Tensor, "k"],
) -> Float[Tensor, "probe"]:
    odds = torch.einsum("prk,pk->pr", z, weight)
    fit = torch.nn.functional.binary_cross_entropy_with_logits(odds, target, reduction="none").double().sum(1)
    return fit + (decay * weight.square()).double().sum(1) / 2


def best_thresholds(
    scores: Float[Tensor, "probe row"], y: Bool[Tensor, "probe row"]
) -> tuple[Float[Tensor, "probe"], Float[Tensor, "probe"]]:
    """Return the threshold above which a row is predicted with the largest F1, and that F1.

    The threshold is halfway between two scores: that of the last row that is predicted, and the next one.
    """
    ordered, order = scores.sort(dim=1, descending=True)
    hits = y.gather(1, order).cumsum(1).double()
    predicted = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64)
    f1 = 2 * hits / (predicted + y.sum(1, keepdim=True))
    following = torch.cat([ordered[:, 1:], ordered[:, -1:] - 1], 1)
    f1, best = f1.masked_fill(ordered == following, -1.0).max(1, keepdim=True)
    return ((ordered + following) / 2).gather(1, best)[:, 0], f1[:, 0]
