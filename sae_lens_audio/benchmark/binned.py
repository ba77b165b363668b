"""Counts of latents' values by bin and phone, from which F1 at every threshold and average precision follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from sae_lens_audio.benchmark.data import BenchmarkData

BINS = 48  # thresholds of a latent: quantiles of its positive values
BLOCK = 256  # latents at once
_FEW = 1 << 19  # entries that are compared with all edges at once


@dataclass(frozen=True, eq=False)
class LatentBlock:
    """A few latents with their counts. Where values are negative, each latent also occurs with its sign reversed.

    Attributes:
        signed: number of each latent, ``i``, or ``-1 - i`` for latent i with its sign reversed.
        signs: 1, or 2 if the second half has the first half's latents with their signs reversed.
        values: at every position, not negative.
        edges: descending; bin b has values of at least edge b, the last bin has 0 and less.
        n: positions by fold, latent, bin and phone. The last phone stands for all positions without a judged phone.
    """

    signed: Int[np.ndarray, "latent"]
    signs: int
    values: Float[Tensor, "row latent"]
    edges: Float[np.ndarray, "latent edge"]
    n: Int[np.ndarray, "fold latent bin phone"]

    @property
    def alive(self) -> Bool[np.ndarray, "latent"]:
        """Latents with a positive value somewhere."""
        return self.n[:, :, :-1].sum((0, 2, 3)) > 0

    def others(self, fold: int) -> Int[np.ndarray, "latent bin phone"]:
        """Return the counts of the folds that a latent is chosen on."""
        return self.n.sum(0) - self.n[fold]


def latent_blocks(latents: Float[Tensor, "row n"], data: BenchmarkData, size: int = BLOCK) -> Iterator[LatentBlock]:
    """Count the values of a few latents at a time."""
    for start in range(0, latents.shape[1], size):
        values = latents[:, start : start + size]
        signed, signs = np.arange(start, start + values.shape[1]), 1
        if (values < 0).any():
            values, signed, signs = torch.cat([values, -values], 1), np.concatenate([signed, -1 - signed]), 2
        values = values.clamp_min(0)
        edges = bin_edges(values)
        yield LatentBlock(signed, signs, values, edges, _counts(values, edges, data))


def of_signed(
    latents: Float[Tensor, "row n"], rows: Int[np.ndarray, "part"], signed: Int[np.ndarray, "chosen"]
) -> Float[np.ndarray, "part chosen"]:
    """Return the values of latents by their signed numbers, 0 where they are negative."""
    number = np.where(signed >= 0, signed, -1 - signed)
    values = latents[torch.from_numpy(rows)][:, torch.from_numpy(number)].numpy()
    return np.maximum(np.where(signed >= 0, values, -values), 0)


def bin_edges(values: Float[Tensor, "row latent"]) -> Float[np.ndarray, "latent edge"]:
    """Return descending quantiles of the positive values of each latent; infinite where there are none."""
    ordered = values.sort(dim=0, descending=True).values
    n_positive = (ordered > 0).sum(0)
    share = (torch.arange(1, BINS + 1) / BINS).square()  # finer at the top, where rare phones are
    index = (share[:, None] * n_positive).ceil().long().clamp_min(1) - 1
    edges = ordered.gather(0, index.clamp_max(len(ordered) - 1))
    return torch.where(n_positive > 0, edges, torch.inf).T.numpy()


def bins_of(
    active: Float[np.ndarray, "entry"], latent: Int[np.ndarray, "entry"], edges: Float[np.ndarray, "latent edge"]
) -> Int[np.ndarray, "entry"]:
    """Return the bin of each positive value."""
    if len(active) < _FEW:
        return (active[:, None] < edges[latent]).sum(1)
    bins = np.empty(len(active), dtype=np.int64)
    order = np.argsort(latent, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(latent[order])) + 1):
        ascending = edges[latent[part[0]], ::-1]
        bins[part] = len(ascending) - np.searchsorted(ascending, active[part], side="right")
    return bins


def threshold_f1(n: Int[np.ndarray, "latent bin phone"]) -> Float[np.ndarray, "latent bin judged"]:
    """Return the F1 of "at least the edge of this bin" for every judged phone; 0 for the bin of zeros."""
    above = n.cumsum(1)
    both = n.sum(1)[:, None, :-1] + above.sum(2)[:, :, None]
    f1 = 2 * above[..., :-1] / np.maximum(both, 1)
    f1[:, -1] = 0
    return f1


def average_precision(right: Num[np.ndarray, "*more bin"], every: Num[np.ndarray, "*more bin"]) -> np.ndarray:
    """Return the average precision from the right and from all positions by bin; NaN without right ones."""
    said, ranked = right.sum(-1), every.cumsum(-1)
    precision = np.divide(right.cumsum(-1), ranked, out=np.zeros(ranked.shape), where=ranked > 0)
    return np.divide((precision * right).sum(-1), said, out=np.full(said.shape, np.nan), where=said > 0)


def _counts(
    values: Float[Tensor, "row latent"], edges: Float[np.ndarray, "latent edge"], data: BenchmarkData
) -> Int[np.ndarray, "fold latent bin phone"]:
    n_phones, n_latents = len(data.phones) + 1, values.shape[1]
    group = data.fold * n_phones + np.where(data.labeled, data.phone, n_phones - 1)
    n_groups = data.n_folds * n_phones
    row, latent = (part.numpy() for part in (values > 0).nonzero(as_tuple=True))
    bins = bins_of(values[row, latent].numpy(), latent, edges)
    index = (group[row] * n_latents + latent) * (BINS + 1) + bins
    n = np.bincount(index, minlength=n_groups * n_latents * (BINS + 1)).reshape(n_groups, n_latents, BINS + 1)
    n[..., -1] += np.bincount(group, minlength=n_groups)[:, None] - n.sum(2)
    return n.reshape(data.n_folds, n_phones, n_latents, BINS + 1).transpose(0, 2, 3, 1)
