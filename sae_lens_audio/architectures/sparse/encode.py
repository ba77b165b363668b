"""Encoding to sparse feature activations, tile by tile: only the selected values outlive a tile of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model.kernels import recurring_linear
from sae_lens_audio.architectures.sparse.feature_acts import Entries, SparseFeatureActs
from sae_lens_audio.architectures.sparse.ranks import Ranks
from sae_lens_audio.architectures.sparse.select import largest_of_all, largest_of_rows

_CPU_TILE = 256  # rows; 3 MB with 3,072 features, so that the product is still in the cache when it is read
_GPU_TILE = 1 << 27  # pre-activations in a tile on other devices (half a GiB)

Select = Callable[[Tensor, int], tuple[Tensor, Tensor]]


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
        tiles = [select(pre, k) for pre in _tiles(centered, weight, bias)]
        latents = torch.cat([tile_latents for _, tile_latents in tiles]).flatten()
        values = torch.cat([tile_values for tile_values, _ in tiles]).flatten().to(weight.dtype)
    rows = torch.arange(n, device=x.device).repeat_interleave(k)
    entries = Entries(latents, rows, torch.arange(0, n * k, k, device=x.device), weight.shape[1])
    return SparseFeatureActs(_Encode.apply(centered, weight, bias, center, values, entries), entries)


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
        values, flat = _candidates(centered, weight, bias, count, ranks)
        largest = largest_of_all(values, count, ranks)
        flat, order = flat[largest].sort()
        values = values[largest][order].to(weight.dtype)
    n_latents = weight.shape[1]
    rows = flat.div(n_latents, rounding_mode="floor")
    counts = torch.bincount(rows, minlength=len(x))
    entries = Entries(flat % n_latents, rows, counts.cumsum(0) - counts, n_latents)
    return SparseFeatureActs(_Encode.apply(centered, weight, bias, center, values, entries), entries)


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
) -> tuple[Tensor, Tensor]:
    """Return positive values that include the ``count`` largest, and their flat indices in ``[row, d_sae]``.

    A lower bound is estimated from the first tile. If fewer than ``count`` values exceed it, the rows are encoded again
    with a lower bound, finally with 0. All ranks use the same bound, so that they repeat together.
    """

    def total(part: float | int) -> float | int:
        """Sum over ranks."""
        return part if ranks is None else ranks.sum(torch.tensor(part, device=x.device)).item()

    n_values = total(len(x) * weight.shape[1])
    values: list[Tensor] = []
    indices: list[Tensor] = []
    for slack in (1.25, 3.0, float("inf")):
        bound, offset = None, 0
        values.clear()
        indices.clear()
        for pre in _tiles(x, weight, bias):
            flat = pre.view(-1)
            if bound is None:
                bound = total(_bound(flat, slack * count / n_values)) / (1 if ranks is None else ranks.n)
            above = (flat > bound).nonzero().flatten()
            values.append(flat[above])
            indices.append(above + offset)
            offset += flat.numel()
        if bound == 0 or total(sum(map(len, values))) >= count:
            break
    return torch.cat(values), torch.cat(indices)


def _bound(flat: Tensor, share: float) -> float:
    """Return a value that about this share of a tile's values exceeds, at least 0."""
    sample = flat[:: max(1, flat.numel() // 200_000)]
    if share * len(sample) + 1 >= len(sample):
        return 0.0
    return max(0.0, sample.topk(int(share * len(sample)) + 1, sorted=False).values.min().item())


def _tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Yield the pre-activations of each tile of rows, in one buffer: each tile overwrites the one before.

    Under autocast the product is computed in its dtype.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    n_latents = weight.shape[1]
    size = _CPU_TILE if kind == "cpu" else max(1, _GPU_TILE // n_latents)
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    buffer = torch.empty(min(size, len(x)), n_latents, dtype=dtype, device=x.device)
    for rows in x.split(size):
        if kind == "cpu" and len(rows) == size:
            yield recurring_linear(rows.to(dtype), weight.T, bias)
        else:
            yield torch.addmm(bias, rows.to(dtype), weight, out=buffer[: len(rows)])


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
