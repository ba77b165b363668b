"""The k largest activations of every feature over a corpus: exact, streaming, with what happened around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.features.scan.state import Accumulator, Stretch

_LOW = -torch.inf


class TopK(Accumulator):
    """``[feature, k]``, largest first; of equal values the one earlier in the corpus first. Unfilled places: -inf, -1.

    Args:
        context: positions kept on either side of each example.
        one_per_recording: at most one example of a feature from each recording, its largest.
        separation: an example must be the largest within so many positions on either side (of equals the first).
    """

    saved = ("values", "recordings", "positions", "traces")

    def __init__(
        self,
        n_features: int,
        k: int,
        context: int = 0,
        one_per_recording: bool = False,
        separation: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.context, self.one_per_recording, self.separation = context, one_per_recording, separation
        self.values = torch.full((n_features, k), _LOW, device=device)
        self.recordings = torch.full((n_features, k), -1, dtype=torch.int32, device=device)
        self.positions = torch.full((n_features, k), -1, dtype=torch.int32, device=device)
        self.traces = torch.full((n_features, k, 2 * context + 1), torch.nan, device=device)

    def add(self, stretch: Stretch, largest: Float[Tensor, "feature"]) -> None:
        """``largest`` is the maximum of each feature over the stretch."""
        # what comes later must be larger than the smallest example kept: most features of most stretches end here
        columns = (largest > self.values[:, -1]).nonzero()[:, 0]
        if not len(columns):
            return
        k = self.values.shape[1]
        values, rows = self._candidates(stretch.x[:, columns])
        kept = self.values[columns]
        if self.one_per_recording:
            kept, values = _one_of_both(kept, values, self.recordings[columns] == stretch.recording)
        found = torch.isfinite(values)
        joined = torch.cat([kept, values], dim=1)
        order = joined.sort(dim=1, descending=True, stable=True).indices[:, :k]

        def keep(old: Tensor, new: Tensor) -> None:
            at = order if old.dim() == 2 else order[..., None].expand(-1, -1, old.shape[2])
            old[columns] = torch.cat([old[columns], new], dim=1).gather(1, at)

        keep(self.recordings, torch.where(found, stretch.recording, -1).int())
        keep(self.positions, torch.where(found, rows + stretch.first, -1).int())
        keep(self.traces, self._around(stretch.x, rows, columns))
        self.values[columns] = joined.gather(1, order)
        empty = self.values[columns] == _LOW  # a place that its recording's larger value has left
        self.recordings[columns] = self.recordings[columns].masked_fill(empty, -1)
        self.positions[columns] = self.positions[columns].masked_fill(empty, -1)

    def _candidates(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "c m"], Int[Tensor, "c m"]]:
        """The largest values of each column in the order of their rows, at most k, and their rows."""
        if self.one_per_recording:
            values, rows = x.max(dim=0)  # the first of equals
            return values[:, None], rows[:, None]
        if self.separation:
            x = x.masked_fill(~peaks(x, self.separation), _LOW)
        m = min(self.values.shape[1], len(x))
        least = x.topk(m, dim=0).values[-1]
        above, equal = x > least, x == least
        # topk takes any of the equal values at the boundary; we want the first ones
        room = m - above.sum(0)
        chosen = above | (equal & (equal.cumsum(0) <= room))
        rows = chosen.T.nonzero()[:, 1].view(-1, m)
        return x.T.gather(1, rows), rows

    def _around(self, x: Tensor, rows: Int[Tensor, "c m"], columns: Int[Tensor, "c"]) -> Float[Tensor, "c m around"]:
        at = rows[..., None] + torch.arange(-self.context, self.context + 1, device=x.device)
        inside = (at >= 0) & (at < len(x))
        trace = x[at.clamp(0, len(x) - 1), columns[:, None, None]]
        return trace.masked_fill(~inside, torch.nan)


def peaks(x: Float[Tensor, "n c"], separation: int) -> Bool[Tensor, "n c"]:
    """Where a value is the largest within ``separation`` rows on either side, the first of equals."""
    padded = F.pad(x.T[:, None], (separation, separation), value=_LOW)
    sliding = F.max_pool1d(padded, separation, stride=1)[:, 0].T  # [n + separation + 1, c]: max of rows i-s .. i-1
    before, after = sliding[: len(x)], sliding[separation + 1 :]
    return (x > before) & (x >= after)


def _one_of_both(
    kept: Float[Tensor, "c k"], new: Float[Tensor, "c 1"], same: Bool[Tensor, "c k"]
) -> tuple[Float[Tensor, "c k"], Float[Tensor, "c 1"]]:
    """Where a recording has an example already (a window before), only the larger of it and the new one stays."""
    old = kept.masked_fill(~same, _LOW).amax(1, keepdim=True)
    return kept.masked_fill(same & (new > old), _LOW), new.masked_fill((new <= old) & same.any(1, keepdim=True), _LOW)
