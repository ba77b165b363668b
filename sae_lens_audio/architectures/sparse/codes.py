"""Sparse codes and their decoding, with gradients that stay sparse."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entries:
    """Where the values of a code are: entry ``i`` is feature ``latents[i]`` in bag ``bags[i]``.

    Entries of one bag stand together, bags in order; ``offsets`` are their beginnings. A bag is a row, or a part of
    one. ``by_latent`` has the order in which entries of one feature stand together: made once, used by every gradient.
    """

    latents: Int[Tensor, "entry"]
    bags: Int[Tensor, "entry"]
    offsets: Int[Tensor, "bag"]
    n_latents: int

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "entry"], Int[Tensor, "d_sae"], Int[Tensor, "entry"]]:
        """The order, where each feature's entries begin in it, and the entries' bags in it."""
        order = self.latents.argsort(stable=True)  # stable: gradients are the same in every run
        counts = torch.bincount(self.latents, minlength=self.n_latents)
        return order, counts.cumsum(0) - counts, self.bags[order]

    def sum_rows(self, values: Float[Tensor, "entry"], rows: Float[Tensor, "bag d"]) -> Float[Tensor, "d_sae d"]:
        """For every feature the sum of ``value * rows[bag]`` over its entries: a gradient of weights."""
        order, offsets, bags = self.by_latent
        return weighted_sums(bags, rows, offsets, values[order])

    def sum_values(self, values: Float[Tensor, "entry"]) -> Float[Tensor, "d_sae"]:
        return values.new_zeros(self.n_latents).index_add_(0, self.latents, values)


def weighted_sums(
    numbers: Int[Tensor, "entry"],
    table: Float[Tensor, "row d"],
    offsets: Int[Tensor, "bag"],
    weights: Float[Tensor, "entry"],
) -> Float[Tensor, "bag d"]:
    """For every bag the weighted sum of some rows of a table, without a copy of those rows."""
    if not len(numbers):
        return table.new_zeros(len(offsets), table.shape[1])
    return F.embedding_bag(numbers, table, offsets, mode="sum", per_sample_weights=weights)


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
    """``gradient[bag] . directions[latent]`` of every entry, without copies of either's rows.

    This is the kernel that torch runs for the weights of an embedding bag; through its autograd the same call would
    decode once more and make a dense gradient of the table.
    """
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient, directions, entries.latents, entries.offsets, entries.bags, 0
    )


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Values of a few features of every row, in the order of rows. Gradients flow through ``values``."""

    values: Float[Tensor, "entry"]
    entries: Entries

    @property
    def active(self) -> Int[Tensor, "d_sae"]:
        """Number of rows in which each feature is not 0."""
        fired = self.entries.latents[self.values.detach() != 0]
        return torch.bincount(fired, minlength=self.entries.n_latents)

    def decode(self, directions: Float[Tensor, "d_sae d"]) -> Float[Tensor, "bag d"]:
        """``codes @ directions``, one row per bag."""
        return _Decode.apply(self.values, directions, self.entries)

    def dense(self, n_rows: int) -> Float[Tensor, "row d_sae"]:
        """The same codes with all their zeros: for looking at, and for tests."""
        full = self.values.new_zeros(n_rows, self.entries.n_latents)
        return full.index_put((self.entries.bags, self.entries.latents), self.values)

    def in_levels(self, n_rows: int, bounds: tuple[int, ...]) -> SparseCodes:
        """Every row's entries parted by ranges of features: bag ``level * n_rows + row`` holds the features from
        ``bounds[level]`` up to ``bounds[level + 1]``.
        """
        at = self.entries
        level = torch.bucketize(at.latents, torch.tensor(bounds[1:], device=at.latents.device), right=True)
        bags = level * n_rows + at.bags
        order = bags.argsort(stable=True)
        counts = torch.bincount(bags, minlength=(len(bounds) - 1) * n_rows)
        entries = Entries(at.latents[order], bags[order], counts.cumsum(0) - counts, at.n_latents)
        return SparseCodes(self.values[order], entries)
