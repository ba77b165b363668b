"""Encoding to sparse codes: rows go through the encoder a few at a time, and only what is kept outlives its tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.model.kernels import recurring_linear
from sae_lens_audio.architectures.sparse.codes import Entries, SparseCodes
from sae_lens_audio.architectures.sparse.ranks import Ranks
from sae_lens_audio.architectures.sparse.select import largest_of_all, largest_of_rows

_CPU_TILE = 256  # rows; with 3,072 features 3 MB: what is written by the product is still in the cache when it is read
_GPU_CELLS = 1 << 27  # elsewhere as many rows as give so many pre-activations (half a GiB)

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
    centre: Float[Tensor, "d"] | None,
    k: int,
    signed: bool = False,
) -> SparseCodes:
    """The ``k`` largest of ``(x - centre) @ weight + bias`` of each row, those below 0 set to 0; ``signed``: the ``k``
    largest in size, of either sign. ``x`` gets no gradient.
    """
    n, k = len(x), min(k, weight.shape[1])
    select: Select = _of_any_sign if signed else _positive
    centred = _centred(x, centre)
    with torch.no_grad():
        tiles = [select(pre, k) for pre in _tiles(centred, weight, bias)]
        latents = torch.cat([some for _, some in tiles]).flatten()
        values = torch.cat([some for some, _ in tiles]).flatten().to(weight.dtype)
    rows = torch.arange(n, device=x.device).repeat_interleave(k)
    entries = Entries(latents, rows, torch.arange(0, n * k, k, device=x.device), weight.shape[1])
    return SparseCodes(_Encode.apply(centred, weight, bias, centre, values, entries), entries)


def encode_batch_topk(
    x: Float[Tensor, "row d"],
    weight: Float[Tensor, "d d_sae"],
    bias: Float[Tensor, "d_sae"],
    centre: Float[Tensor, "d"] | None,
    count: int,
    ranks: Ranks | None = None,
) -> SparseCodes:
    """The ``count`` largest positive values of ``(x - centre) @ weight + bias``, of all rows together.

    ``ranks`` hold other rows of the same batch: then ``count`` is of the whole batch.
    """
    centred = _centred(x, centre)
    with torch.no_grad():
        values, flat = _candidates(centred, weight, bias, count, ranks)
        chosen = largest_of_all(values, count, ranks)
        flat, order = flat[chosen].sort()
        values = values[chosen][order].to(weight.dtype)
    n_latents = weight.shape[1]
    rows = flat.div(n_latents, rounding_mode="floor")
    counts = torch.bincount(rows, minlength=len(x))
    entries = Entries(flat % n_latents, rows, counts.cumsum(0) - counts, n_latents)
    return SparseCodes(_Encode.apply(centred, weight, bias, centre, values, entries), entries)


@torch.no_grad()
def _centred(x: Tensor, centre: Tensor | None) -> Tensor:
    """Once, for the product and for its gradient."""
    return x if centre is None else x - centre


def _candidates(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: int,
    ranks: Ranks | None,
) -> tuple[Tensor, Tensor]:
    """Positive values among which the largest of all are for certain, and their places in ``[row, d_sae]``.

    A bound is guessed from the first tile, a little low. If too few values lie above it, the guess was wrong, and the
    rows go through once more with a lower one, at last with 0. Ranks use one bound, so that all go again or none.
    """

    def whole(part: float | int) -> float | int:
        """Summed over ranks."""
        return part if ranks is None else ranks.sum(torch.tensor(part, device=x.device)).item()

    cells = whole(len(x) * weight.shape[1])
    values: list[Tensor] = []
    places: list[Tensor] = []
    for slack in (1.25, 3.0, float("inf")):
        bound, at = None, 0
        values.clear()
        places.clear()
        for pre in _tiles(x, weight, bias):
            flat = pre.view(-1)
            if bound is None:
                bound = whole(_bound(flat, slack * count / cells)) / (1 if ranks is None else ranks.n)
            there = (flat > bound).nonzero().flatten()
            values.append(flat[there])
            places.append(there + at)
            at += flat.numel()
        if bound == 0 or whole(sum(map(len, values))) >= count:
            break
    return torch.cat(values), torch.cat(places)


def _bound(flat: Tensor, share: float) -> float:
    """A value that about this share of a tile's values exceed, at least 0."""
    some = flat[:: max(1, flat.numel() // 200_000)]
    if share * len(some) + 1 >= len(some):
        return 0.0
    return max(0.0, some.topk(int(share * len(some)) + 1, sorted=False).values.min().item())


def _tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Pre-activations of some rows after the other, in one buffer: each is overwritten by the next.

    Under autocast the product is taken in its dtype.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    n_latents = weight.shape[1]
    size = _CPU_TILE if kind == "cpu" else max(1, _GPU_CELLS // n_latents)
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    buffer = torch.empty(min(size, len(x)), n_latents, dtype=dtype, device=x.device)
    for rows in x.split(size):
        if kind == "cpu" and len(rows) == size:
            yield recurring_linear(rows.to(dtype), weight.T, bias)
        else:
            yield torch.addmm(bias, rows.to(dtype), weight, out=buffer[: len(rows)])


class _Encode(torch.autograd.Function):
    """Gives the values that were selected, and their gradients to the weights; the selection itself has none."""

    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, weight: Tensor, bias: Tensor, centre: Tensor | None, values: Tensor, entries: Entries
    ) -> Tensor:
        ctx.save_for_backward(centred, weight, values)
        ctx.entries, ctx.has_centre = entries, centre is not None
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        centred, weight, values = ctx.saved_tensors
        entries: Entries = ctx.entries
        through = gradient * (values != 0)  # a value of 0 is the flat part of the activation function
        to_weight = entries.sum_rows(through, centred.to(weight.dtype)).T.contiguous()
        to_bias = entries.sum_values(through)
        # of the centre: summed over rows before the product with the weights, which so is one of a vector
        to_centre = -(weight @ to_bias) if ctx.has_centre else None
        return None, to_weight, to_bias, to_centre, None, None
