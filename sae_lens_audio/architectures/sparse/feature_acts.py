"""Sparse feature activations and their decoding, with gradients that stay sparse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_audio.architectures.sparse.compiled import compiled_for


@dataclass(frozen=True, eq=False)
class Entries:
    """The positions of sparse values: entry ``i`` is feature ``latents[i]`` in bag ``bags[i]``.

    A bag (as in ``torch.nn.EmbeddingBag``) is a row, or a part of one. Entries are sorted by bag; ``offsets`` is the
    first entry of each bag.
    """

    latents: Int[Tensor, "entry"]
    bags: Int[Tensor, "entry"]
    offsets: Int[Tensor, "bag"]
    n_latents: int

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "entry"], Int[Tensor, "d_sae"], Int[Tensor, "entry"]]:
        """The order that sorts entries by feature, the first entry of each feature in it, and the bags in it.

        Cached, since every gradient uses it.
        """
        order = self.latents.argsort(stable=True)  # stable, so that gradients are reproducible
        counts = torch.bincount(self.latents, minlength=self.n_latents)
        return order, counts.cumsum(0) - counts, self.bags[order]

    def sum_rows(self, values: Float[Tensor, "entry"], rows: Float[Tensor, "bag d"]) -> Float[Tensor, "d_sae d"]:
        """Return for every feature the sum of ``value * rows[bag]`` over its entries: a gradient of weights."""
        order, offsets, bags = self.by_latent
        return weighted_sums(bags, rows, offsets, values[order])

    def sum_values(self, values: Float[Tensor, "entry"]) -> Float[Tensor, "d_sae"]:
        return values.new_zeros(self.n_latents).index_add_(0, self.latents, values)


def weighted_sums(
    indices: Int[Tensor, "entry"],
    table: Float[Tensor, "row d"],
    offsets: Int[Tensor, "bag"],
    weights: Float[Tensor, "entry"],
) -> Float[Tensor, "bag d"]:
    """Return the weighted sum of table rows of every bag, without copying the rows."""
    if not len(indices):
        return table.new_zeros(len(offsets), table.shape[1])
    return F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, directions: Tensor, entries: Entries) -> Tensor:
        ctx.save_for_backward(values, directions)
        ctx.entries = entries
        return weighted_sums(entries.latents, directions, entries.offsets, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        values, directions = ctx.saved_tensors
        entries: Entries = ctx.entries
        gradient = gradient.contiguous()
        to_values = to_directions = None
        if ctx.needs_input_grad[0]:
            to_values = _products(gradient, directions, entries) if len(values) else torch.zeros_like(values)
        if ctx.needs_input_grad[1]:
            to_directions = entries.sum_rows(values, gradient)
        return to_values, to_directions, None


def _products(gradient: Tensor, directions: Tensor, entries: Entries) -> Tensor:
    """Return ``gradient[bag] . directions[latent]`` of every entry, without copying rows.

    Without compiled loops, this is the kernel torch runs for the gradient of an embedding bag's weights. Calling it
    through autograd would decode once more and build a dense gradient of the table.
    """
    loops = compiled_for(gradient, directions)
    if loops is not None:
        return loops.products(gradient, directions, entries.latents, entries.offsets)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient, directions, entries.latents, entries.offsets, entries.bags, 0
    )


@dataclass(frozen=True, eq=False)
class SparseFeatureActs:
    """The values of a few features of each row, sorted by row. Gradients flow through ``values``."""

    values: Float[Tensor, "entry"]
    entries: Entries

    @property
    def active(self) -> Int[Tensor, "d_sae"]:
        """Number of rows in which each feature is not 0."""
        fired = self.entries.latents[self.values.detach() != 0]
        return torch.bincount(fired, minlength=self.entries.n_latents)

    def decode(self, directions: Float[Tensor, "d_sae d"]) -> Float[Tensor, "bag d"]:
        """Return ``feature_acts @ directions``, one row per bag."""
        return _Decode.apply(self.values, directions, self.entries)

    def dense(self, n_rows: int) -> Float[Tensor, "row d_sae"]:
        """Return the same activations as a matrix with all zeros."""
        full = self.values.new_zeros(n_rows, self.entries.n_latents)
        return full.index_put((self.entries.bags, self.entries.latents), self.values)

    def in_levels(self, n_rows: int, bounds: tuple[int, ...]) -> SparseFeatureActs:
        """Split each row's entries by ranges of features: bag ``level * n_rows + row`` holds the features from
        ``bounds[level]`` up to ``bounds[level + 1]``.
        """
        old = self.entries
        level = torch.bucketize(old.latents, torch.tensor(bounds[1:], device=old.latents.device), right=True)
        bags = level * n_rows + old.bags
        order = bags.argsort(stable=True)
        counts = torch.bincount(bags, minlength=(len(bounds) - 1) * n_rows)
        entries = Entries(old.latents[order], bags[order], counts.cumsum(0) - counts, old.n_latents)
        return SparseFeatureActs(self.values[order], entries)
