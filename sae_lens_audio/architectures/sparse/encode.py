"""Encoding to sparse feature activations, tile by tile: only the selected values outlive a tile of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_lens_audio.architectures.sparse.feature_acts import Entries, SparseFeatureActs
from sae_lens_audio.architectures.sparse.ranks import Ranks
from sae_lens_audio.architectures.sparse.select import largest_of_all, largest_of_rows, values_above
from sae_lens_audio.architectures.sparse.tiles import pre_activation_tiles

Select = Callable[[Tensor, int], tuple[Tensor, Tensor]]

MOST_NONZERO = 0.8
"""Share of nonzero entries up to which dropping the others takes less time than it saves."""


def _positive(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, latents = largest_of_rows(pre, k)
    return values.relu_(), latents


def _of_any_sign(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    latents = largest_of_rows(pre.abs(), k)[1]
    return pre.gather(1, latents), latents


def encode_topk(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    center: Float[Tensor, "d"] | None,
    k: int,
    signed: bool = False,
) -> SparseFeatureActs:
    """Keep the ``k`` largest of ``(x - center) @ weight + bias`` of each row, negative ones set to 0.

    ``signed``: the ``k`` largest in absolute value, of either sign. ``x`` gets no gradient.
    """
    n, k = len(x), min(k, weight.shape[1])
    select: Select = _of_any_sign if signed else _positive
    centered = _subtract(x, center)
    with torch.no_grad():
        tiles = [select(pre, k) for pre in pre_activation_tiles(centered, weight, bias)]
        latents = torch.cat([tile_latents for _, tile_latents in tiles]).flatten()
        values = torch.cat([tile_values for tile_values, _ in tiles]).flatten().to(weight.dtype)
        rows = torch.arange(n, device=x.device).repeat_interleave(k)
        entries = Entries(latents, rows, torch.arange(0, n * k, k, device=x.device), weight.shape[1])
        if x.device.type == "cpu":  # elsewhere counting would wait for the device
            values, entries = _without_zeros(values, entries)
    return SparseFeatureActs(_Encode.apply(centered, weight, bias, center, values, entries), entries)


def _without_zeros(values: Tensor, entries: Entries) -> tuple[Tensor, Entries]:
    """Drop entries of value 0 if they are many, as with dead features: nothing depends on them."""
    nonzero = values != 0
    if int(nonzero.sum()) > MOST_NONZERO * len(values):
        return values, entries
    latents, rows = entries.latents[nonzero], entries.bags[nonzero]
    return values[nonzero], _entries(latents, rows, len(entries.offsets), entries.n_latents)


def encode_batch_topk(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    center: Float[Tensor, "d"] | None,
    count: int,
    ranks: Ranks | None = None,
) -> SparseFeatureActs:
    """Keep the ``count`` largest positive values of ``(x - center) @ weight + bias``, of all rows together.

    With ``ranks``, which hold other rows of the same batch, ``count`` refers to the whole batch.
    """
    centered = _subtract(x, center)
    with torch.no_grad():
        values, latents, rows = _candidates(centered, weight, bias, count, ranks)
        largest = largest_of_all(values, count, ranks)
        values = values[largest].to(weight.dtype)
    entries = _entries(latents[largest], rows[largest], len(x), weight.shape[1])
    return SparseFeatureActs(_Encode.apply(centered, weight, bias, center, values, entries), entries)


def encode_above(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    center: Float[Tensor, "d"] | None,
    lower: Float[Tensor, "d_sae"],
    most: float,
) -> SparseFeatureActs | None:
    """Keep the values of ``(x - center) @ weight + bias`` above ``lower``, which is at least 0.

    Return ``None`` as soon as they are more than the share ``most`` of all values.
    """
    centered, n_latents = _subtract(x, center), weight.shape[1]
    tiles: list[tuple[Tensor, Tensor, Tensor]] = []
    n_values = n_above = 0
    with torch.no_grad():
        for pre in pre_activation_tiles(centered, weight, bias):
            tiles.append(values_above(pre, lower.to(pre.dtype)))
            n_values += pre.numel()
            n_above += len(tiles[-1][0])
            if n_above > most * n_values:
                return None
        values, latents, rows = _joined(tiles, len(x))
        values = values.to(weight.dtype)
        entries = _entries(latents, rows, len(x), n_latents)
    return SparseFeatureActs(_Encode.apply(centered, weight, bias, center, values, entries), entries)


def _joined(tiles: list[tuple[Tensor, Tensor, Tensor]], n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, latents and rows, from the values, columns and counts per row of tiles."""
    values, latents, counts = map(torch.cat, zip(*tiles, strict=True))
    return values, latents, torch.arange(n_rows, device=counts.device).repeat_interleave(counts)


def _entries(latents: Tensor, rows: Tensor, n_rows: int, n_latents: int) -> Entries:
    """Return entries sorted by row."""
    counts = torch.bincount(rows, minlength=n_rows)
    return Entries(latents, rows, counts.cumsum(0) - counts, n_latents)


@torch.no_grad()
def _subtract(x: Tensor, center: Tensor | None) -> Tensor:
    """Compute once, for the product and for its gradient."""
    return x if center is None else x - center


def _candidates(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: int,
    ranks: Ranks | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positive values that include the ``count`` largest, their latents and rows, sorted by row.

    A lower bound is estimated from the first tile. If fewer than ``count`` values exceed it, the rows are encoded again
    with a lower bound, finally with 0. All ranks use the same bound, so that they repeat together.
    """

    def total(part: float | int) -> float | int:
        """Sum over ranks."""
        return part if ranks is None else ranks.sum(torch.tensor(part, device=x.device)).item()

    n_values = total(len(x) * weight.shape[1])
    tiles: list[tuple[Tensor, Tensor, Tensor]] = []
    for slack in (1.25, 3.0, float("inf")):
        bound: float | int | None = None
        tiles.clear()
        for pre in pre_activation_tiles(x, weight, bias):
            if bound is None:
                bound = total(_bound(pre.view(-1), slack * count / n_values)) / (1 if ranks is None else ranks.n)
            tiles.append(values_above(pre, pre.new_full(pre.shape[1:], bound)))
        if bound == 0 or total(sum(len(values) for values, _, _ in tiles)) >= count:
            break
    return _joined(tiles, len(x))


def _bound(flat: Tensor, share: float) -> float:
    """Return a value that about this share of a tile's values exceeds, at least 0."""
    sample = flat[:: max(1, flat.numel() // 200_000)]
    if share * len(sample) + 1 >= len(sample):
        return 0.0
    return max(0.0, sample.topk(int(share * len(sample)) + 1, sorted=False).values.min().item())


class _Encode(torch.autograd.Function):
    """Return the selected values and pass their gradients to the weights; the selection has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        centered: Tensor,
        weight: Tensor,
        bias: Tensor,
        center: Tensor | None,
        values: Tensor,
        entries: Entries,
    ) -> Tensor:
        ctx.save_for_backward(centered, weight, values)
        ctx.entries, ctx.has_center = entries, center is not None
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        centered, weight, values = ctx.saved_tensors
        entries: Entries = ctx.entries
        through = gradient * (values != 0)  # no gradient where the activation function is flat
        to_weight = entries.sum_rows(through, centered.to(weight.dtype)).T.contiguous()
        to_bias = entries.sum_values(through)
        # sum over rows before the product with the weights, which is then a matrix-vector product
        to_center = -(weight @ to_bias) if ctx.has_center else None
        return None, to_weight, to_bias, to_center, None, None
