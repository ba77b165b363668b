"""Options and results of a scan."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import RenamedWarning, renamed_arguments
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted
from hooked_whisper.activations.options import WindowSize, check_windows
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.histogram_bins import HistogramBins

HISTOGRAM_BINS = HistogramBins(bits=4, lowest=-14, highest=10)
TAIL_BINS = HistogramBins(bits=2, lowest=-14, highest=10)
SECONDS = TimeMap().seconds_per_position
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
        window: input of the encoder. ``"full"`` is Whisper's window, mostly padding for short clips. ``"sound"`` is the
            sound and ``beyond`` positions after it, which is several times faster for short clips and gives **other
            activations**; the difference is measured and in :attr:`Scan.deviation`.
        beyond: positions of padding (20 ms each) that ``window="sound"`` encodes.
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
    window: WindowSize = "full"
    beyond: int = 50

    def __post_init__(self) -> None:
        for name in ("k", "ranges", "per_range", "batch", "chunk", "rows", "per_bin"):
            if getattr(self, name) < 1:
                raise HookedWhisperError(f"{name} is {getattr(self, name)}, expected at least 1")
        check_windows("drop", self.window, 0)
        if self.beyond < 0:
            raise HookedWhisperError(f"beyond is {self.beyond}, expected at least 0 positions")
        if self.separation_s < 0 or self.context_s < 0:
            raise HookedWhisperError(
                f"separation_s is {self.separation_s} and context_s is {self.context_s}, expected at least 0 seconds"
            )


if not TYPE_CHECKING:
    ScanOptions.__init__ = renamed_arguments(per_cell="per_bin")(ScanOptions.__init__)


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Showing):
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


@dataclass(frozen=True, eq=False, repr=False)
class RangeExamples(Showing):
    """Activation ranges with a uniform sample from each; ``examples`` are ``[feature, range, n]``."""

    edges: Float[np.ndarray, "feature edge"]
    counts: Int[np.ndarray, "feature range"]
    examples: Examples


@dataclass(frozen=True, eq=False, repr=False)
class FeatureScan(Tabular):
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

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per feature: feature, label, mean, variance, minimum, maximum, firing_rate, and recording
        (index in the corpus) and time (s) of its strongest example."""
        names = ("mean", "variance", "minimum", "maximum", "firing_rate")
        columns = {name: getattr(self, name).tolist() for name in names}
        recordings, positions = self.top.recordings, self.top.positions
        return [
            {"feature": k, "label": label}
            | {name: values[k] for name, values in columns.items()}
            | {"top_recording": int(recordings[k, 0]), "top_s": round(float(positions[k, 0]) * SECONDS, 2)}
            for k, label in enumerate(self.labels)
        ]

    def summary(self) -> Summary:
        title = f"FeatureScan: {self.name}, {counted(self.n_features, 'feature')} at {self.hook}"
        active = float(np.mean(self.firing_rate > 0))
        notes = (
            f"{counted(self.positions, 'position')} ({self.positions * SECONDS:.4g} s); {active:.1%} of the features "
            "are active somewhere; those with the largest activations:",
        )
        order = np.argsort(-np.nan_to_num(self.maximum), kind="stable")[:10]
        rows = tuple(
            (
                self.labels[k],
                float(self.maximum[k]),
                float(self.mean[k]),
                float(self.firing_rate[k]),
                int(self.top.recordings[k, 0]),
                float(self.top.positions[k, 0]) * SECONDS,
            )
            for k in order
        )
        columns = ("feature", "maximum", "mean", "firing rate", "top recording", "at (s)")
        return Summary(title, notes, columns, rows, self.n_features)

    def plot(self, feature: int, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw a feature's activation around its strongest examples, in seconds. ``backend="plotly"`` for plotly.

        Raises:
            HookedWhisperError: the scan kept no activations around the examples, or the feature has no example.
        """
        traces = self.top.traces
        filled = self.top.recordings[feature] >= 0
        if traces is None or not filled.any():
            raise HookedWhisperError(f"feature {feature} of {self.name} has no examples with activations around them")
        around = traces.shape[-1] // 2
        values = traces[feature][filled]
        places = zip(self.top.recordings[feature][filled], self.top.positions[feature][filled], strict=True)
        left, right = -(around + 0.5) * SECONDS, (around + 0.5) * SECONDS
        return heat_map(
            np.asarray(values, dtype=float),
            title=title or f"{self.name}: strongest examples of feature {self.labels[feature]}",
            x="time from the peak (s)",
            y="recording, time",
            unit="activation",
            rows=[f"{recording}, {position * SECONDS:.2f} s" for recording, position in places],
            extent=(left, right, len(values) - 0.5, -0.5),
            facecolor="white",
            backend=backend,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Showing):
    """The results of a scan.

    Attributes:
        header: content of ``scan.json``.
        bases: results by name of the basis, which is the hook point unless a name was given.
        recordings: id of each recording that has an example, by its index in the corpus.
    """

    header: dict[str, Any]
    bases: dict[str, FeatureScan]
    recordings: dict[int, str]

    def summary(self) -> Summary:
        n_bases, n_failed = counted(len(self.bases), "basis", "bases"), len(self.header.get("failures", ()))
        title = f"Scan: {n_bases}, examples from {counted(len(self.recordings), 'recording')}"
        notes = (f"{counted(n_failed, 'recording')} could not be read",) if n_failed else ()
        rows = tuple(
            (name, scan.n_features, scan.hook, round(scan.positions * SECONDS, 1), float(np.mean(scan.firing_rate > 0)))
            for name, scan in self.bases.items()
        )
        return Summary(title, notes, ("basis", "features", "hook", "audio (s)", "share active"), rows)

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
    def deviation(self) -> dict[str, Any]:
        """With ``window="sound"``, the difference to activations of full windows, else empty.

        See :func:`hooked_whisper.activations.deviation.measure_deviation`.
        """
        return dict(self.header.get("deviation", {}))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Recordings that could not be read: index, id, path and reason."""
        return list(self.header["failures"])
