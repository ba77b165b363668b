"""Reconstruction quality and firing frequency, in one pass with sums in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_property
from hooked_whisper._support.showing import Showing
from hooked_whisper.errors import ArgumentError, ShapeError
from sae_lens_audio.architectures import DecodableBasis
from sae_lens_audio.evals.decodable import reconstruct

DENSE = 0.1  # firing frequency above which a feature is called dense
_IN_MEMORY = 1 << 24  # features per step: 64 MB
Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class ReconstructionScores(Showing):
    """Scores over rows ``x`` and their reconstructions ``x_hat``. NaN where undefined.

    Attributes:
        n_rows: number of activations scored.
        d_in: width of the input, over all blocks of a crosscoder.
        l0: number of features that are not 0, mean over rows.
        explained_variance: ``1 - sum |x - x_hat|^2 / sum |x - mean|^2``, with the mean of the scored rows. Rows with
            a large norm weigh more.
        explained_variance_per_position: mean over rows of ``1 - |x - x_hat|^2 / |x - mean|^2``: every position has
            the same weight, which exposes positions reconstructed worse than by the mean (below 0). The mean is the
            argument, or else that of the scored rows.
        normalized_mse: ``sum |x - x_hat|^2 / sum |x|^2``, where the mean must be reconstructed too.
        cosine: between ``x`` and ``x_hat``, mean over rows that are not 0.
        relative_norm: ``|x_hat| / |x|``, mean over such rows.
        relative_bias: ``sum |x_hat|^2 / sum x x_hat``: below 1 the reconstruction is shrunk. Source: Rajamanoharan et
            al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", section 2 (gamma).
        density: share of rows on which each feature fires.
    """

    n_rows: int
    d_in: int
    l0: float
    explained_variance: float
    explained_variance_per_position: float
    normalized_mse: float
    cosine: float
    relative_norm: float
    relative_bias: float
    density: Float[np.ndarray, "feature"]

    normalised_mse = renamed_property("normalised_mse", "normalized_mse")

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        codes: DecodableBasis,
        batches: Tensor | Iterable[Batch],
        mean: Float[Tensor, "*d"] | None = None,
        hook: str = "",
    ) -> ReconstructionScores:
        """Score all batches. The result does not depend on the batch size, except for rounding.

        Args:
            codes: an SAE, transcoder, crosscoder, linear basis or sparse baseline.
            batches: rows ``[row, d_in]`` (``[row, n_blocks, d_in]`` for a crosscoder), one tensor or several; for a
                transcoder pairs of rows and target rows.
            mean: reference of the per-position score. Without it, the mean of the rows, which are then read twice.
            hook: name of the hook point, for messages.

        Raises:
            ShapeError: no rows, rows of another width, or NaN or infinity in them or in the reconstruction.
            ArgumentError: an iterator without ``mean``, or a transcoder without targets.
        """
        several: Iterable[Batch] = [batches] if isinstance(batches, Tensor) else batches
        if mean is None:
            if isinstance(several, Iterator):
                raise ArgumentError("these batches can be read only once: give mean=, or a list of batches")
            mean = mean_of((batch[1] if isinstance(batch, tuple) else batch) for batch in several)
        counter = ReconstructionCounter(codes, mean, hook)
        for batch in several:
            counter.add(*batch) if isinstance(batch, tuple) else counter.add(batch)
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
        """Share of features that never fire on these rows."""
        return float((~self.alive).mean())

    @property
    def dense_fraction(self) -> float:
        """Share of features that fire on more than a tenth of these rows."""
        return float((self.density > DENSE).mean())

    def histogram(self, edges: Float[np.ndarray, "edge"] | None = None) -> Int[np.ndarray, "bin"]:
        """Return the number of live features by log10 of their density; default bins: quarters of a decade."""
        log_density = np.log10(self.density[self.alive])
        return np.histogram(log_density, density_edges(self.n_rows) if edges is None else edges)[0]


def density_edges(n_rows: int) -> Float[np.ndarray, "edge"]:
    """Return bin edges at quarters of a decade, from one row (the lowest observable density) to all rows."""
    lowest = np.floor(4 * -np.log10(max(n_rows, 10))) / 4
    return np.arange(lowest, 0.125, 0.25)


def mean_of(batches: Iterable[Tensor]) -> Float[Tensor, "*d"]:
    """Return the mean row in float64.

    Raises:
        ShapeError: there are no rows.
    """
    total: Tensor | None = None
    n = 0
    for rows in batches:
        part = rows.detach().double().sum(0)
        total, n = part if total is None else total + part, n + len(rows)
    if total is None or not n:
        raise ShapeError("there are no rows to score: give at least one activation")
    return total / n


class ReconstructionCounter:
    """Accumulates scores over batches of rows. Without ``mean`` the per-position score is NaN."""

    def __init__(self, codes: DecodableBasis, mean: Float[Tensor, "*d"] | None = None, hook: str = "") -> None:
        self._codes, self._hook = codes, hook or "these activations"
        self._mean = None if mean is None else mean.detach().double().flatten()
        self._fired: Tensor = torch.zeros(codes.n_features, dtype=torch.int64)
        self._sums: dict[str, float] = dict.fromkeys(_SUMS, 0.0)
        self._first: Tensor | None = None  # subtracted from all rows, to avoid cancellation if the mean is large
        self._total: Tensor | None = None
        self._n = self._width = 0

    @torch.no_grad()
    def add(self, rows: Float[Tensor, "row *d"], targets: Float[Tensor, "target *out"] | None = None) -> None:
        """Add rows; ``targets``: the rows that a transcoder predicts.

        Raises:
            ShapeError: as :meth:`ReconstructionScores.of`.
        """
        if getattr(self._codes, "predicts_other_hook", False) and targets is None:
            raise ArgumentError("a transcoder predicts another hook point: give its rows as targets")
        targets = rows if targets is None else targets
        if len(targets) != len(rows):
            raise ShapeError(f"{len(rows)} rows but {len(targets)} targets: give one for each")
        for prefix, x in (("", rows), ("targets of ", targets)):
            self._check_finite(x, prefix)
        step = max(1, _IN_MEMORY // max(1, self._codes.n_features))
        for start in range(0, len(rows), step):
            self._add(rows[start : start + step], targets[start : start + step], start)

    def _add(self, rows: Tensor, targets: Tensor, start: int) -> None:
        features, predicted = reconstruct(self._codes, rows)
        if predicted.shape != targets.shape:
            raise ShapeError(
                f"rows of {self._hook} are {list(targets.shape[1:])}, their reconstruction is "
                f"{list(predicted.shape[1:])}: give the activations that this SAE was made for"
            )
        self._check_finite(predicted, "the reconstruction of ", start)
        x, y = targets.double().flatten(1), predicted.double().flatten(1)
        if self._first is None or self._total is None:
            self._first, self._total = x[0].clone(), torch.zeros_like(x[0])
            self._width = rows[0].numel()
        shifted = x - self._first
        error, norm, norm_hat = (x - y).square().sum(1), x.norm(dim=1), y.norm(dim=1)
        inner = (x * y).sum(1)
        nonzero = norm > 0
        sums = {
            "error": error.sum(),
            "shifted": shifted.square().sum(),
            "norm": norm.square().sum(),
            "norm_hat": norm_hat.square().sum(),
            "inner": inner.sum(),
            "cosine": (inner / (norm * norm_hat).clamp_min(1e-300))[nonzero].sum(),
            "ratio": (norm_hat / norm)[nonzero].sum(),
            "nonzero": nonzero.sum(),
        }
        if self._mean is not None:
            if self._mean.shape != x[0].shape:
                raise ShapeError(f"the mean is {len(self._mean)} wide, the rows are {x.shape[1]}")
            spread = (x - self._mean.to(x.device)).square().sum(1)
            varied = spread > 0
            sums |= {"by row": (1 - error / spread)[varied].sum(), "varied": varied.sum()}
        for name, value in sums.items():
            self._sums[name] += float(value)
        self._fired += (features != 0).sum(0).cpu()
        self._total += shifted.sum(0)
        self._n += len(x)

    def _check_finite(self, x: Tensor, prefix: str, start: int = 0) -> None:
        bad = (~torch.isfinite(x)).flatten(1).any(1)
        if bad.any():
            row = int(bad.nonzero()[0]) + start
            raise ShapeError(
                f"{prefix}row {row} of {self._hook} is NaN or infinite ({int(bad.sum())} rows are): check the model "
                "and the audio"
            )

    def result(self) -> ReconstructionScores:
        """Return the scores of the rows so far.

        Raises:
            ShapeError: no rows were added.
        """
        if self._first is None or self._total is None:
            raise ShapeError("there are no rows to score: give at least one activation")
        s, n = self._sums, self._n
        variance = s["shifted"] - float(self._total.square().sum()) / n
        if variance <= 1e-12 * s["norm"]:  # one row, or equal rows: only rounding errors
            variance = 0.0
        return ReconstructionScores(
            n_rows=n,
            d_in=self._width,
            l0=int(self._fired.sum()) / n,
            explained_variance=1 - _ratio(s["error"], variance),
            explained_variance_per_position=_ratio(s["by row"], s["varied"]),
            normalized_mse=_ratio(s["error"], s["norm"]),
            cosine=_ratio(s["cosine"], s["nonzero"]),
            relative_norm=_ratio(s["ratio"], s["nonzero"]),
            relative_bias=_ratio(s["norm_hat"], s["inner"]),
            density=(self._fired.double() / n).numpy(),
        )


_SUMS = ("error", "shifted", "norm", "norm_hat", "inner", "cosine", "ratio", "nonzero", "by row", "varied")


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")
