"""What to scan and how, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.histogram_bins import HistogramBins

HISTOGRAM_BINS = HistogramBins(bits=4, lowest=-14, highest=10)
TAIL_BINS = HistogramBins(bits=2, lowest=-14, highest=10)
FIRES = 2.0**HISTOGRAM_BINS.lowest
"""What an activation must reach to count as active: 0.00006."""


@dataclass(frozen=True)
class ScanOptions:
    """Everything that changes the result of a scan, and nothing else.

    Attributes:
        k: examples with the largest activations for each feature.
        one_per_recording: at most one of them from each recording; the same for samples.
        separation_s: seconds within which an example must be the largest activation (non-maximum suppression); 0: none.
        context_s: seconds of activation kept on either side of the largest.
        ranges: how many activation ranges, of equal width and of equal counts.
        per_range: examples to sample from each.
        batch: windows that are encoded together.
        chunk: recordings that one process takes at a time; no batch has windows of two chunks.
        rows, per_bin: size of the samples behind the ranges, see :mod:`hooked_whisper.features.scan.sampling`.
    """

    k: int = 20
    one_per_recording: bool = True
    separation_s: float | int = 0.0
    context_s: float | int = 1.0
    ranges: int = 10
    per_range: int = 5
    batch: int = 4
    chunk: int = 32
    rows: int = 2048
    per_bin: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "ranges", "per_range", "batch", "chunk", "rows", "per_bin"):
            if getattr(self, name) < 1:
                raise HookedWhisperError(f"a scan needs {name} of at least 1, got {getattr(self, name)}")
        if self.separation_s < 0 or self.context_s < 0:
            raise HookedWhisperError("separation_s and context_s are seconds, at least 0")


@dataclass(frozen=True, eq=False)
class Examples:
    """Positions in a corpus, ``[feature, ..., n]``; a place nobody filled has recording -1 and value NaN.

    ``positions`` count from the start of the recording, 20 ms each. ``traces``, if there are any, hold the feature's
    activation around each: ``[feature, n, 2 context + 1]``, NaN beyond the window or the clip.
    """

    values: Float[np.ndarray, "feature *n"]
    recordings: Int[np.ndarray, "feature *n"]
    positions: Int[np.ndarray, "feature *n"]
    traces: Float[np.ndarray, "feature n around"] | None = None


@dataclass(frozen=True, eq=False)
class RangeExamples:
    """Activation ranges with a uniform sample from each: edges ``[feature, range + 1]``, counts ``[feature, range]``,
    examples ``[feature, range, n]``."""

    edges: Float[np.ndarray, "feature edge"]
    counts: Int[np.ndarray, "feature range"]
    examples: Examples


@dataclass(frozen=True, eq=False)
class FeatureScan:
    """Everything a scan knows about the features of one site. Arrays are ``[feature]`` unless they say otherwise.

    ``histogram [feature, bin]`` counts positions: first those that are negative or about zero, then the positive bins
    of :data:`HISTOGRAM_BINS`.
    """

    name: str
    hook: str
    labels: tuple[str, ...]
    positions: int
    mean: Float[np.ndarray, "feature"]
    variance: Float[np.ndarray, "feature"]
    minimum: Float[np.ndarray, "feature"]
    maximum: Float[np.ndarray, "feature"]
    firing_rate: Float[np.ndarray, "feature"]
    histogram: Int[np.ndarray, "feature bin"]
    top: Examples
    ranges: dict[str, RangeExamples]

    @property
    def n_features(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Scan:
    """The results of a scan. ``header`` is the JSON that stands beside the tables."""

    header: dict[str, Any]
    sites: dict[str, FeatureScan]
    recordings: dict[int, str]
    """Index in the corpus -> id, for the recordings that examples name."""

    def __getitem__(self, name: str) -> FeatureScan:
        if name not in self.sites:
            raise HookedWhisperError(f"this scan has no site {name!r}: there are {', '.join(self.sites)}")
        return self.sites[name]

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Recordings that could not be read: index, id, path, reason."""
        return list(self.header["failures"])
