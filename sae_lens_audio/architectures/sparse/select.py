"""The largest values of rows, or of all rows together, without sorting or copying everything."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_lens_audio.architectures.sparse.ranks import Ranks

_GROUP = 8  # values looked at together; 4 to 24 take nearly the same time


def largest_of_rows(x: Float[Tensor, "row n"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The ``k`` largest values of each row and their places, in no order; as ``x.topk(k)``, in half of its time.

    The ``k`` groups with the largest maxima hold the ``k`` largest values: whatever is outside them is at most as large
    as each of those maxima. So groups are ranked first, and then the values in the best ones.
    """
    rows, n = x.shape
    groups = n // _GROUP
    if n % _GROUP or 2 * k > groups:
        return x.topk(k, dim=1, sorted=False)
    grouped = x.view(rows, _GROUP, groups)  # value j is in group j % groups: the maximum runs along memory
    best = grouped.amax(1).topk(k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, best[:, None].expand(rows, _GROUP, k)).flatten(1)
    values, chosen = candidates.topk(k, dim=1, sorted=False)
    return values, chosen.div(k, rounding_mode="floor") * groups + best.gather(1, chosen % k)


def largest_of_all(values: Float[Tensor, "n"], count: int, ranks: Ranks | None = None) -> Int[Tensor, "kept"]:
    """Places of the ``count`` largest values, in no order; all of them if there are not more.

    With ``ranks``, which hold parts of the values, ``count`` is of all ranks, and ties at the smallest value kept are
    all kept.
    """
    if ranks is not None:
        return (values.float() >= count_at_least(values, count, ranks)).nonzero().flatten()
    if len(values) <= count:
        return torch.arange(len(values), device=values.device)
    return values.topk(count, sorted=False).indices


def count_at_least(values: Float[Tensor, "n"], count: int, ranks: Ranks) -> Float[Tensor, ""]:
    """The largest float32 number that at least ``count`` of the values of all ranks reach; values are at least 0.

    By halving the range of bit patterns, which floats of one sign order: 31 sums of one number, whatever the sizes.
    0 if there are fewer values than ``count``.
    """
    bits = values.float().view(torch.int32)
    low = torch.zeros((), dtype=torch.int64, device=values.device)
    for step in range(30, -1, -1):
        trial = low + (1 << step)
        enough = ranks.sum((bits >= trial).sum()) >= count
        low = torch.where(enough, trial, low)
    return low.to(torch.int32).view(torch.float32)
