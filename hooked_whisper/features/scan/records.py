"""Options and results of a scan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper._support.renamed import RenamedWarning, renamed_arguments
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.histogram_bins import HistogramBins

HISTOGRAM_BINS = HistogramBins(bits=4, lowest=-14, highest=10)
TAIL_BINS = HistogramBins(bits=2, lowest=-14, highest=10)
FIRES = 2.0**HISTOGRAM_BINS.lowest
"""Smallest activation that counts as active: 0.00006."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of a scan; each of them changes the result.

    Attributes:
        k: examples with the largest activations of each feature.
        one_per_recording: take at most one example of a feature from each recording.
        separation_s: an example must be the largest activation within this many seconds (non-maximum suppression); 0
            disables it.
        context_s: seconds of activations kept on either side of an example.
        ranges: number of activation ranges, of equal width and of equal counts.
        per_range: examples sampled from each range.
        batch: windows encoded together.
        chunk: recordings that a process takes at a time; no batch has windows of two chunks.
        rows, per_bin: sizes of the samples that range examples are drawn from, see
            :mod:`hooked_whisper.features.scan.sampling`.
        seed: of the samples.
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
                raise HookedWhisperError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.separation_s < 0 or self.context_s < 0:
            raise HookedWhisperError(
                f"separation_s is {self.separation_s} and context_s is {self.context_s}, expected at least 0 seconds"
            )


if not TYPE_CHECKING:
    ScanOptions.__init__ = renamed_arguments(per_cell="per_bin")(ScanOptions.__init__)


@dataclass(frozen=True, eq=False)
class Examples:
    """Positions in a corpus, ``[feature, ..., n]``. Empty slots have recording -1 and value NaN.

    Attributes:
        values: activations.
        recordings: index in the corpus.
        positions: encoder positions (20 ms), counted from the start of the recording.
        traces: the feature's activation around each example, ``2 context + 1`` positions; NaN outside the window.
    """

    values: Float[np.ndarray, "feature *n"]
    recordings: Int[np.ndarray, "feature *n"]
    positions: Int[np.ndarray, "feature *n"]
    traces: Float[np.ndarray, "feature n around"] | None = None


@dataclass(frozen=True, eq=False)
class RangeExamples:
    """Activation ranges with a uniform sample from each; ``examples`` are ``[feature, range, n]``."""

    edges: Float[np.ndarray, "feature edge"]
    counts: Int[np.ndarray, "feature range"]
    examples: Examples


@dataclass(frozen=True, eq=False)
class FeatureScan:
    """The results of a scan for the features of one basis at one hook point.

    ``histogram`` counts positions: first those that are negative or about zero, then those in each positive bin of
    :data:`HISTOGRAM_BINS`.
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
    """The results of a scan.

    Attributes:
        header: content of ``scan.json``.
        bases: results by name of the basis, which is the hook point unless a name was given.
        recordings: id of each recording that has an example, by its index in the corpus.
    """

    header: dict[str, Any]
    bases: dict[str, FeatureScan]
    recordings: dict[int, str]

    def __getitem__(self, name: str) -> FeatureScan:
        if name not in self.bases:
            raise HookedWhisperError(f"the scan has no basis {name!r}: choose {' or '.join(map(repr, self.bases))}")
        return self.bases[name]

    @property
    def sites(self) -> dict[str, FeatureScan]:
        """The name of ``bases`` in version 0.1."""
        warnings.warn("Scan.sites is now called Scan.bases", RenamedWarning, stacklevel=2)
        return self.bases

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Recordings that could not be read: index, id, path and reason."""
        return list(self.header["failures"])
