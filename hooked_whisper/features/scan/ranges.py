"""Activation ranges of every feature, of equal width or with equal counts. Edges are bin edges: counts are exact."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.features.histogram_bins import HistogramBins

RangeKind = Literal["equal width", "equal count"]
RANGE_KINDS: tuple[RangeKind, ...] = ("equal width", "equal count")


class Ranges(NamedTuple):
    """``edges [feature, n + 1]`` float64, NaN for a feature that never fires; ``counts [feature, n]`` of positions."""

    edges: Float[Tensor, "feature edge"]
    counts: Int[Tensor, "feature range"]


def make_ranges(histogram: Int[Tensor, "feature bin"], bins: HistogramBins, kind: RangeKind, n: int) -> Ranges:
    """Divide each feature's positive activations into ``n`` ranges, from about zero to the largest.

    ``"equal width"`` divides the interval evenly, as published count plots do. ``"equal count"`` divides the positions
    evenly (deciles, if ``n`` is 10). Both are rounded to bin edges (a sixteenth of an octave); ranges may be empty.
    """
    check_option("kind", kind, get_args(RangeKind), PatchError)
    positive = histogram[:, 1:]
    edges = bins.edges[bins.per_sign + 1 :].to(histogram.device)  # [bin + 1], the last infinite
    below = torch.nn.functional.pad(positive.cumsum(1), (1, 0))  # [feature, edge]: positions below each edge
    fires = below[:, -1] > 0
    last = (positive > 0).to(torch.int8).mul(torch.arange(1, positive.shape[1] + 1, device=edges.device)).amax(1)
    share = torch.arange(n + 1, device=edges.device) / n
    if kind == "equal width":
        finite = edges.clone()
        finite[-1] = 2 * finite[-2]
        top = finite[last]  # upper edge of the highest bin that was reached
        index = _nearest(finite.expand(len(top), -1).contiguous(), share * top[:, None])
    else:
        index = _nearest(below.double(), share * below[:, -1:].double())
    index[:, 0], index[:, -1] = 0, last
    index = torch.minimum(index.cummax(1).values, last[:, None])
    range_edges = edges[index].masked_fill(~fires[:, None], torch.nan)
    return Ranges(range_edges, below.gather(1, index).diff(dim=1))


def _nearest(ascending: Float[Tensor, "feature edge"], targets: Float[Tensor, "feature n"]) -> Int[Tensor, "feature n"]:
    """Index of the value nearest to each target."""
    targets = targets.double().contiguous()
    above = torch.searchsorted(ascending, targets).clamp(1, ascending.shape[1] - 1)
    low, high = ascending.gather(1, above - 1), ascending.gather(1, above)
    return torch.where(targets - low < high - targets, above - 1, above)
