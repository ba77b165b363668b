"""How well features stand for activations, and how often each of them fires: one pass, sums in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.errors import ArgumentError, ShapeError
from sae_lens_audio.evals.decodable import DecodableBasis, reconstruct

DENSE = 0.1  # a feature that fires on more of the rows is called dense
_AT_ONCE = 1 << 24  # features computed together: 64 MB
Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class ReconstructionScores:
    """Scores over rows ``x`` (what shall be reconstructed) and ``x_hat`` (what was). NaN where undefined.

    Attributes:
        n_rows: activations scored.
        d_in: width of what is encoded, all blocks of a crosscoder together.
        l0: features that fire (are not 0), mean over rows.
        explained_variance: ``1 - sum |x - x_hat|^2 / sum |x - mean|^2``, with the mean of the rows scored. Large rows
            weigh more.
        explained_variance_per_position: mean over rows of ``1 - |x - x_hat|^2 / |x - mean|^2``: every position weighs
            the same, so that one reconstructed worse than by the mean (below 0) cannot hide. The mean is the one given,
            else that of the rows scored.
        normalised_mse: ``sum |x - x_hat|^2 / sum |x|^2``; the mean counts as something to be reconstructed.
        cosine: between ``x`` and ``x_hat``, mean over rows that are not 0.
        relative_norm: ``|x_hat| / |x|``, mean over such rows.
        relative_bias: ``sum |x_hat|^2 / sum x x_hat``: below 1 the reconstruction is shrunk. Source: Rajamanoharan et
            al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", section 2 (gamma).
        density: share of the rows on which each feature fires.
    """

    n_rows: int
    d_in: int
    l0: float
    explained_variance: float
    explained_variance_per_position: float
    normalised_mse: float
    cosine: float
    relative_norm: float
    relative_bias: float
    density: Float[np.ndarray, "feature"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        codes: DecodableBasis,
        batches: Tensor | Iterable[Batch],
        mean: Float[Tensor, "*d"] | None = None,
        hook: str = "",
    ) -> ReconstructionScores:
        """Scores over all batches; the same (to rounding) however the rows are cut into batches.

        Args:
            codes: a dictionary, transcoder, crosscoder, linear basis or sparse baseline.
            batches: rows ``[row, d_in]`` (``[row, n_blocks, d_in]`` for a crosscoder), one tensor or several; for a
                transcoder pairs of rows and of the rows to be predicted.
            mean: what the per-position form measures against. Without it the rows' own, for which they are read
                twice.
            hook: whose rows these are, for messages.

        Raises:
            ShapeError: no rows; rows of another width; NaN or infinity, in them or in the reconstruction; rows that can
                be read only once and no ``mean``.
        """
        given: Iterable[Batch] = [batches] if isinstance(batches, Tensor) else batches
        if mean is None:
            if isinstance(given, Iterator):
                raise ArgumentError("these batches can be read only once: give mean=, or a list of batches")
            mean = mean_of((one[1] if isinstance(one, tuple) else one) for one in given)
        counter = ReconstructionCounter(codes, mean, hook)
        for one in given:
            counter.add(*one) if isinstance(one, tuple) else counter.add(one)
        return counter.result()

    @property
    def n_features(self) -> int:
        return len(self.density)

    @property
    def alive(self) -> Bool[np.ndarray, "feature"]:
        """Features that fire on some row."""
        return self.density > 0

    @property
    def dead_fraction(self) -> float:
        """Share of the features that never fire on these rows."""
        return float((~self.alive).mean())

    @property
    def dense_fraction(self) -> float:
        """Share of the features that fire on more than a tenth of these rows."""
        return float((self.density > DENSE).mean())

    def histogram(self, edges: Float[np.ndarray, "edge"] | None = None) -> Int[np.ndarray, "bin"]:
        """Features by log10 of their density, dead ones left out; default: quarters of a decade, see :func:`edges`."""
        found = np.log10(self.density[self.alive])
        return np.histogram(found, density_edges(self.n_rows) if edges is None else edges)[0]


def density_edges(n_rows: int) -> Float[np.ndarray, "edge"]:
    """Quarters of a decade, from one row (the rarest that can be seen) to all rows."""
    lowest = np.floor(4 * -np.log10(max(n_rows, 10))) / 4
    return np.arange(lowest, 0.125, 0.25)


def mean_of(batches: Iterable[Tensor]) -> Float[Tensor, "*d"]:
    """Mean row, float64. Raises :class:`ShapeError` without rows."""
    total: Tensor | None = None
    n = 0
    for rows in batches:
        some = rows.detach().double().sum(0)
        total, n = some if total is None else total + some, n + len(rows)
    if total is None or not n:
        raise ShapeError("there are no rows to score: give activations of one position or more")
    return total / n


class ReconstructionCounter:
    """Adds up rows as they come. ``mean`` is for the per-position form, which is NaN without it."""

    def __init__(self, codes: DecodableBasis, mean: Float[Tensor, "*d"] | None = None, hook: str = "") -> None:
        self._codes, self._hook = codes, hook or "these activations"
        self._mean = None if mean is None else mean.detach().double().flatten()
        self._fired: Tensor = torch.zeros(codes.n_features, dtype=torch.int64)
        self._sums: dict[str, float] = dict.fromkeys(_SUMS, 0.0)
        self._first: Tensor | None = None  # rows are counted from here: no cancellation where the mean is large
        self._total: Tensor | None = None
        self._n = self._width = 0

    @torch.no_grad()
    def add(self, rows: Float[Tensor, "row *d"], targets: Float[Tensor, "target *out"] | None = None) -> None:
        """Count some rows; ``targets`` are what a transcoder shall predict.

        Raises:
            ShapeError: as :meth:`ReconstructionScores.of`.
        """
        if getattr(self._codes, "predicts_other_hook", False) and targets is None:
            raise ArgumentError("a transcoder predicts another hook point: give the rows there as targets")
        wanted = rows if targets is None else targets
        if len(wanted) != len(rows):
            raise ShapeError(f"{len(rows)} rows but {len(wanted)} targets: give one for each")
        for what, x in (("", rows), ("targets of ", wanted)):
            self._check_finite(x, what)
        step = max(1, _AT_ONCE // max(1, self._codes.n_features))
        for at in range(0, len(rows), step):
            self._add(rows[at : at + step], wanted[at : at + step], at)

    def _add(self, rows: Tensor, wanted: Tensor, at: int) -> None:
        features, predicted = reconstruct(self._codes, rows)
        if predicted.shape != wanted.shape:
            raise ShapeError(
                f"rows of {self._hook} are {list(wanted.shape[1:])}, their reconstruction is "
                f"{list(predicted.shape[1:])}: give the activations that this dictionary was made for"
            )
        self._check_finite(predicted, "the reconstruction of ", at)
        x, y = wanted.double().flatten(1), predicted.double().flatten(1)
        if self._first is None or self._total is None:
            self._first, self._total = x[0].clone(), torch.zeros_like(x[0])
            self._width = rows[0].numel()
        shifted = x - self._first
        error, size, made = (x - y).square().sum(1), x.norm(dim=1), y.norm(dim=1)
        inner = (x * y).sum(1)
        there = size > 0
        found = {
            "error": error.sum(),
            "shifted": shifted.square().sum(),
            "size": size.square().sum(),
            "made": made.square().sum(),
            "inner": inner.sum(),
            "cosine": (inner / (size * made).clamp_min(1e-300))[there].sum(),
            "ratio": (made / size)[there].sum(),
            "there": there.sum(),
        }
        if self._mean is not None:
            if self._mean.shape != x[0].shape:
                raise ShapeError(f"the mean is {len(self._mean)} wide, the rows are {x.shape[1]}")
            spread = (x - self._mean.to(x.device)).square().sum(1)
            known = spread > 0
            found |= {"by row": (1 - error / spread)[known].sum(), "known": known.sum()}
        for name, value in found.items():
            self._sums[name] += float(value)
        self._fired += (features != 0).sum(0).cpu()
        self._total += shifted.sum(0)
        self._n += len(x)

    def _check_finite(self, x: Tensor, what: str, at: int = 0) -> None:
        bad = (~torch.isfinite(x)).flatten(1).any(1)
        if bad.any():
            row = int(bad.nonzero()[0]) + at
            raise ShapeError(
                f"{what}row {row} of {self._hook} is NaN or infinite ({int(bad.sum())} rows are): look at the model "
                "and the audio behind it before scoring"
            )

    def result(self) -> ReconstructionScores:
        """What has been counted so far. Raises :class:`ShapeError` without a row."""
        if self._first is None or self._total is None:
            raise ShapeError("there are no rows to score: give activations of one position or more")
        s, n = self._sums, self._n
        variance = s["shifted"] - float(self._total.square().sum()) / n
        if variance <= 1e-12 * s["size"]:  # one row, or all alike: rounding alone is left
            variance = 0.0
        return ReconstructionScores(
            n_rows=n,
            d_in=self._width,
            l0=int(self._fired.sum()) / n,
            explained_variance=1 - _ratio(s["error"], variance),
            explained_variance_per_position=_ratio(s["by row"], s["known"]),
            normalised_mse=_ratio(s["error"], s["size"]),
            cosine=_ratio(s["cosine"], s["there"]),
            relative_norm=_ratio(s["ratio"], s["there"]),
            relative_bias=_ratio(s["made"], s["inner"]),
            density=(self._fired.double() / n).numpy(),
        )


_SUMS = ("error", "shifted", "size", "made", "inner", "cosine", "ratio", "there", "by row", "known")


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")
