"""Sums over latents by class, from which the latents of a probe are selected; computed block by block of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_lens_audio.benchmark.data import BenchmarkData
from sae_lens_audio.benchmark.subjects import BLOCK_ROWS, Subject


def encoded_blocks(subject: Subject, x: Float[Tensor, "row d"]) -> Iterator[tuple[slice, Float[Tensor, "part n"]]]:
    """Encode a few thousand rows at a time, which bounds memory for any number of latents."""
    for start in range(0, len(x), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(x)))
        yield part, subject.encode(x[part])


def phone_truth(data: BenchmarkData) -> Bool[Tensor, "row phone"]:
    """Return whether each row lies in each judged phone."""
    return torch.from_numpy(data.phone[:, None] == np.arange(len(data.phones)))


@dataclass(frozen=True, eq=False)
class LatentSums:
    """Sums over the rows of a fold.

    Attributes:
        total, n: sum of the latents, and number of rows.
        sums, counts: the same of each class; a row may belong to no class, or to several.
        sizes, active: sum of absolute values and number of values other than 0.
    """

    total: Float[Tensor, "fold n"]
    n: Float[Tensor, "fold"]
    sums: Float[Tensor, "fold class n"]
    counts: Float[Tensor, "fold class"]
    sizes: Float[Tensor, "fold n"]
    active: Float[Tensor, "fold n"]

    @classmethod
    def zero(cls, n_folds: int, n_classes: int, n: int) -> LatentSums:
        shapes = ((n,), (), (n_classes, n), (n_classes,), (n,), (n,))
        return cls(*(torch.zeros(n_folds, *shape) for shape in shapes))

    @classmethod
    def of(
        cls,
        subject: Subject,
        x: Float[Tensor, "row d"],
        fold: Int[np.ndarray, "row"],
        y: Bool[Tensor, "row class"],
    ) -> LatentSums:
        """Encode all rows and add them up."""
        sums = cls.zero(int(fold.max()) + 1, y.shape[1], subject.basis.n_features)
        for part, latents in encoded_blocks(subject, x):
            sums.add_(latents, fold[part], y[part])
        return sums

    def add_(self, latents: Float[Tensor, "row n"], fold: Int[np.ndarray, "row"], y: Bool[Tensor, "row class"]) -> None:
        """Add rows in place."""
        for i in np.unique(fold):
            rows = torch.from_numpy(fold == i)
            block, truth = latents[rows], y[rows].float()
            self.total[i] += block.sum(0)
            self.n[i] += len(block)
            self.sums[i].addmm_(truth.T, block)
            self.counts[i] += truth.sum(0)
            self.sizes[i] += block.abs().sum(0)
            self.active[i] += (block != 0).sum(0)

    @property
    def density(self) -> float:
        """Share of values other than 0."""
        return float(self.active.sum() / self.n.sum() / self.active.shape[1])

    def means(self, fold: int) -> tuple[Float[Tensor, "class n"], Float[Tensor, "class n"]]:
        """Return the mean of each latent over the rows of a class and over all other rows, of the other folds."""
        sums, counts = _without(self.sums, fold), _without(self.counts, fold)
        others, n_others = _without(self.total, fold) - sums, _without(self.n, fold) - counts
        return sums / counts.clamp_min(1)[:, None], others / n_others.clamp_min(1)[:, None]

    def differences(self, fold: int) -> Float[Tensor, "class n"]:
        """Return the difference of means over the mean absolute value of the latent where it is not 0.

        Source: the sae-probes package, which scales latents in this way before it ranks them by their difference.
        """
        of_class, of_others = self.means(fold)
        size = _without(self.sizes, fold) / _without(self.active, fold).clamp_min(1)
        return torch.where(size > 0, (of_class - of_others) / size.clamp_min(1e-12), 0.0)

    def most_different(self, fold: int, k: int) -> Int[Tensor, "class k"]:
        """Return the latents whose mean differs most between a class and the other rows, on the other folds."""
        return self.differences(fold).abs().topk(min(k, self.sums.shape[2]), dim=1).indices

    def most_raised(self, fold: int, k: int) -> Int[Tensor, "class k"]:
        """Return the same among the latents that are larger in size on the class than elsewhere."""
        of_class, of_others = self.means(fold)
        raised = torch.where(of_class.abs() > of_others.abs(), self.differences(fold).abs(), 0.0)
        return raised.topk(min(k, self.sums.shape[2]), dim=1).indices


def _without(sums: Float[Tensor, "fold *more"], fold: int) -> Float[Tensor, "*more"]:
    return sums.sum(0) - sums[fold]


@dataclass(frozen=True, eq=False)
class LatentColumns:
    """Values of a few latents at every row."""

    index: Int[Tensor, "chosen"]
    values: Float[Tensor, "row chosen"]

    @classmethod
    def of(cls, subject: Subject, x: Float[Tensor, "row d"], latents: Int[Tensor, "*any"]) -> LatentColumns:
        """Encode all rows and keep the values of these latents."""
        index = latents.unique()
        return cls(index, torch.cat([block[:, index] for _, block in encoded_blocks(subject, x)]))

    def at(self, rows: Int[Tensor, "part"], latents: Int[Tensor, "probe k"]) -> Float[Tensor, "probe part k"]:
        """Return the values of the latents of each probe at some rows."""
        places = torch.searchsorted(self.index, latents.contiguous())
        return self.values[rows][:, places].permute(1, 0, 2).contiguous()
