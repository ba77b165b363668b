"""Result of a patching sweep: labeled numbers per pair, mean effect, interval, table and figure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.errors import PatchError
from hooked_whisper.patching.grid import GridAxis

PatchMethod = Literal["exact", "attribution"]
Direction = Literal["denoise", "noise"]
DIRECTIONS = get_args(Direction)
SMALLEST_GAP = 1e-5  # relative; in float32, equal runs differ by up to this much if only one had a hook on its patterns


@dataclass(frozen=True, eq=False, repr=False)
class PatchResult(Tabular):
    """One number per pair and patch.

    values: the metric with the patch. base: without a patch. source: of the run that the patches come from.
    direction: ``"denoise"`` patches the clean run into the corrupt one (base = corrupt), ``"noise"`` the reverse.
    site: what was patched, for titles.
    method: ``"exact"`` (every patch was run) or ``"attribution"`` (estimated from one gradient).
    deviation: with ``window="sound"``, the largest difference to the full window among the patches that were also run
        there, in the metric's unit.
    """

    axes: tuple[GridAxis, ...]
    values: Float[np.ndarray, "pair *grid"]
    base: Float[np.ndarray, "pair"]
    source: Float[np.ndarray, "pair"]
    unit: str
    direction: Direction
    site: str
    pairs: tuple[str, ...]
    method: PatchMethod = "exact"
    deviation: Float[np.ndarray, "pair"] | None = None

    @property
    def effect(self) -> Float[np.ndarray, "pair *grid"]:
        """``(value - base) / (source - base)``: 0 is no effect, 1 restores the source run; NaN for equal runs."""
        ones = (1,) * (self.values.ndim - 1)
        gap = (self.source - self.base).reshape(-1, *ones)
        scale = np.maximum(np.abs(self.source), np.abs(self.base)).reshape(-1, *ones)
        known = np.abs(gap) > SMALLEST_GAP * np.maximum(scale, 1.0)
        return np.where(known, (self.values - self.base.reshape(-1, *ones)) / np.where(known, gap, 1.0), np.nan)

    @property
    def mean(self) -> Float[np.ndarray, "*grid"]:
        """Mean effect over the pairs whose runs differ."""
        return _mean(self.effect)

    def interval(self, draws: int = 1000, seed: int = 0) -> Float[np.ndarray, "two *grid"]:
        """Return the 95 % percentile bootstrap interval of :attr:`mean` over pairs (low, high); NaN for one pair."""
        effect = self.effect
        if len(effect) < 2:
            return np.full((2, *effect.shape[1:]), np.nan)
        rng = np.random.default_rng(seed)
        means = np.stack([_mean(effect[rng.integers(len(effect), size=len(effect))]) for _ in range(draws)])
        return np.nanpercentile(means, [2.5, 97.5], axis=0)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per pair and patch: pair, axis labels, value, base, source, effect."""
        rows = []
        effect = self.effect
        for pair, name in enumerate(self.pairs):
            for index in product(*(range(len(axis.labels)) for axis in self.axes)):
                labels = {axis.name: axis.labels[i] for axis, i in zip(self.axes, index, strict=True)}
                entry = (pair, *index)
                rows.append(
                    {"pair": name}
                    | labels
                    | {
                        "value": float(self.values[entry]),
                        "base": float(self.base[pair]),
                        "source": float(self.source[pair]),
                        "effect": float(effect[entry]),
                    }
                )
        return rows

    to_dataframe = renamed_method("to_dataframe", "to_pandas")

    def plot(self, title: str = "", *, percentile: float | int = 100.0, backend: Backend = "matplotlib") -> Any:
        """Draw a heat map of the mean effect: the last axis across, all others down.

        Args:
            percentile: of the absolute effects where the colors end, so that one large effect does not hide the others.
            backend: ``"matplotlib"`` or ``"plotly"``.
        """
        mean = self.mean
        down = self.axes[:-1]
        rows = [" ".join(labels) for labels in product(*(axis.labels for axis in down))] if down else [self.site]
        return heat_map(
            mean.reshape(-1, mean.shape[-1]),
            title=title or self._title(),
            x=self.axes[-1].name,
            y=" x ".join(axis.name for axis in down) or "site",
            unit="effect (1: as the source run)",
            rows=rows,
            columns=self.axes[-1].labels,
            scale="diverging",
            clip=percentile,
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")

    def summary(self) -> Summary:
        shape = " x ".join(counted(len(axis.labels), axis.name) for axis in self.axes)
        mean = self.mean
        notes: tuple[str, ...] = (
            f"{shape}; metric in {self.unit}: {float(self.base.mean()):.4g} unpatched, "
            f"{float(self.source.mean()):.4g} in the source run",
            "effect: 0 is unpatched, 1 is the source run; mean over pairs, the largest first",
        )
        if self.deviation is not None:
            notes += (
                "padding keeps its unpatched activations (window='sound'): of patches also run in the full window, "
                f"the metric differs by at most {float(self.deviation.max()):.2g} {self.unit}",
            )
        size = np.where(np.isfinite(mean), np.abs(mean), -1.0).ravel()
        metric, rows = self.values.mean(0), []
        for flat in np.argsort(-size, kind="stable")[:10]:
            index = np.unravel_index(int(flat), mean.shape)
            labels = tuple(axis.labels[i] for axis, i in zip(self.axes, index, strict=True))
            rows.append((*labels, float(mean[index]), float(metric[index])))
        columns = (*(axis.name for axis in self.axes), "effect", f"metric ({self.unit})")
        return Summary(f"PatchResult: {self._title()}", notes, columns, tuple(rows), mean.size)

    def _title(self) -> str:
        how = "exact" if self.method == "exact" else "estimated by attribution"
        return f"{self.site}, {self.direction}, {counted(len(self.pairs), 'pair')}, {how}"


def agreement(exact: PatchResult, estimate: PatchResult) -> Float[np.ndarray, "pair"]:
    """Return the Spearman correlation of two sweeps of the same grid, pair by pair.

    Raises:
        PatchError: the grids or the numbers of pairs differ.
    """
    if exact.values.shape != estimate.values.shape:
        raise PatchError(f"grids differ: {exact.values.shape} and {estimate.values.shape}; compare sweeps of one grid")
    rows = zip(exact.values, estimate.values, strict=True)
    return np.array([float(spearmanr(a.ravel(), b.ravel()).statistic) for a, b in rows])


def _mean(effect: Float[np.ndarray, "pair *grid"]) -> Float[np.ndarray, "*grid"]:
    known = np.isfinite(effect)
    count = known.sum(0)
    total = np.where(known, effect, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
