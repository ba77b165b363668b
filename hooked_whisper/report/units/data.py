"""The data of a site about units: the contract between the scan of a corpus and the pages.

A unit is anything with one activation per encoder position: a neuron, a direction, a latent of a sparse autoencoder.
Times are seconds from the start of the excerpt. All values are checked here, so that a page is never incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.audio import HOP, SAMPLE_RATE
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AudioError, HookedWhisperError
from hooked_whisper.protocols import Interval

FRAME_S = HOP / SAMPLE_RATE
POSITION_S = 2 * FRAME_S  # stride of the encoder's second convolution
_LONGEST_S = 30.0

Number = float | int
Group = Literal["top", "random"] | int
"""Why an example is shown: it is among the strongest, sampled from range number ``int``, or from all positions."""


@dataclass(frozen=True)
class SelectivityMeasure:
    """The measure of :attr:`Unit.score`, which sorts the index.

    Attributes:
        name: one or two words.
        description: a sentence for the legend, with the meaning of 0 and 1.
    """

    name: str = "score"
    description: str = "the score of the label"


@dataclass(frozen=True)
class DecoderNorm:
    """The decoder norm of a crosscoder's feature at a hook point. relative: divided by the mean over all features."""

    hook: str
    norm: Number
    relative: Number


@dataclass(frozen=True, eq=False)
class DepthHistogram:
    """Where the features of a crosscoder write: counts from 0, only at the first hook point, to 1, only at the last."""

    histogram: Histogram
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class SiteInfo:
    """Title, model, corpus and units of a site.

    Attributes:
        title: heading of the index.
        model, hook: name of the model, and the hook point of the units.
        corpus: description of the recordings.
        indices: units that get a page, in the order of "previous" and "next".
        n_units: number of units at the hook point, with or without a page.
        command: command that made the site.
        facts: further rows to print, ``(name, value)``.
        noun: what one unit is called, such as "neuron" or "feature".
        basis: name of the units' basis, such as "SAE topk-2"; empty for the activations themselves.
        measure: what the units' scores measure.
        labels: label of each unit, for links between pages.
        depths: of all active features of a crosscoder.
    """

    title: str
    model: str
    hook: str
    corpus: str
    indices: tuple[int, ...]
    n_units: int
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    noun: str = "unit"
    basis: str = ""
    measure: SelectivityMeasure = SelectivityMeasure()
    labels: Mapping[int, str] = field(default_factory=dict)
    depths: DepthHistogram | None = None

    def name_of(self, index: int) -> str:
        """Return the name of a unit: ``"neuron 12"``, or ``"feature 12 of SAE topk-2"``."""
        return f"{self.noun} {index}{f' of {self.basis}' if self.basis else ''}"

    def __post_init__(self) -> None:
        if len(set(self.indices)) != len(self.indices):
            raise HookedWhisperError(
                f"{len(self.indices)} indices name {len(set(self.indices))} different units: give each unit once"
            )
        wrong = [i for i in self.indices if not 0 <= i < self.n_units]
        if wrong:
            raise HookedWhisperError(f"indices contain {wrong[:5]}, expected units 0 to {self.n_units - 1}")


@dataclass(frozen=True, eq=False)
class PageClip:
    """An excerpt of a recording as a page plays and draws it; several units may show the same one.

    Attributes:
        id: unique within the site.
        clip: the samples, at most 30 s, and where in the recording they begin.
        mel: log-mel of the same excerpt as the model gets it, frame ``f`` centered on 0.01 f seconds.
        text: what is said in the excerpt.
        words, phones: with times from the start of the excerpt.

    Raises:
        AudioError: empty, not finite or too long samples; a mel of another length than the sound.
        HookedWhisperError: an empty id, or words or phones that begin after the end.
    """

    id: str
    clip: Clip
    mel: Float[np.ndarray, "mel frame"]
    text: str = ""
    words: tuple[Interval, ...] = ()
    phones: tuple[Interval, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise HookedWhisperError("a clip needs an id: examples name it")
        if not 0 < self.duration <= _LONGEST_S:
            raise AudioError(f"clip {self.id!r} lasts {self.duration:g} s: take an excerpt of at most {_LONGEST_S:g} s")
        if not (np.isfinite(self.clip.samples).all() and np.isfinite(self.mel).all()):
            raise AudioError(f"clip {self.id!r} holds NaN or infinity: repair it before showing it")
        frames = self.duration / FRAME_S
        if self.mel.shape[0] == 0 or abs(self.mel.shape[1] - frames) > 1:
            raise AudioError(
                f"clip {self.id!r}: {self.duration:g} s have {frames:g} mel frames, got a mel of {self.mel.shape}; "
                "cut both at the same places"
            )
        late = [i for i in (*self.words, *self.phones) if i.start >= self.duration]
        if late:
            raise HookedWhisperError(
                f"clip {self.id!r} ends at {self.duration:g} s, {late[0].label!r} begins at {late[0].start:g} s: "
                "give times from the start of the excerpt"
            )

    @property
    def duration(self) -> float:
        return self.clip.duration


@dataclass(frozen=True, eq=False)
class UnitExample:
    """A unit's activation over a clip.

    Attributes:
        clip: id of the clip.
        trace: activation every 20 ms.
        start_s: excerpt time of ``trace[0]``.
        peak: index in the trace of the example's position; not always the largest activation.
        group: see :data:`Group`.
        rank: within its group, from 0.
        bin_min, bin_max, bin_contains: activation range that the example was sampled from, and the share of all
            positions in it (Neuronpedia's names).
    """

    clip: str
    trace: Float[np.ndarray, "position"]
    peak: int
    group: Group
    start_s: Number = 0.0
    rank: int = 0
    bin_min: Number | None = None
    bin_max: Number | None = None
    bin_contains: Number | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.trace).all():
            raise HookedWhisperError(f"an example of clip {self.clip!r} has NaN or infinity in its trace")
        if self.start_s < 0:
            raise HookedWhisperError(f"an example of clip {self.clip!r} starts at {self.start_s:g} s: cut its trace")
        if not 0 <= self.peak < len(self.trace):
            raise HookedWhisperError(
                f"an example of clip {self.clip!r} has {len(self.trace)} positions and its peak at {self.peak}: "
                "count from the trace's first"
            )

    @property
    def value(self) -> float:
        """Activation at the peak."""
        return float(self.trace[self.peak])

    @property
    def peak_s(self) -> float:
        return self.start_s + self.peak * POSITION_S

    @property
    def active_s(self) -> tuple[float, float]:
        """The span around the peak where the trace is above the middle between its lowest value and the peak.

        Each position covers 20 ms. The span contains at least the peak's position.
        """
        above = self.trace > (self.value + float(self.trace.min())) / 2
        above[self.peak] = True
        below = np.flatnonzero(~above)
        first = int(below[below < self.peak].max(initial=-1)) + 1
        last = int(below[below > self.peak].min(initial=len(above))) - 1
        return self.start_s + (first - 0.5) * POSITION_S, self.start_s + (last + 0.5) * POSITION_S


@dataclass(frozen=True)
class UnitStats:
    """Statistics over all positions except padding.

    frac_nonzero: share of positions where the unit is active.
    """

    frac_nonzero: Number
    mean: Number
    variance: Number
    max: Number
    min: Number
    dead: bool = False

    def __post_init__(self) -> None:
        _finite("stats", self.frac_nonzero, self.mean, self.variance, self.max, self.min)
        if not 0 <= self.frac_nonzero <= 1 or self.min > self.max or self.variance < 0:
            raise HookedWhisperError(
                f"these statistics are inconsistent: {self}; frac_nonzero is 0 to 1, min <= max, variance >= 0"
            )


@dataclass(frozen=True, eq=False)
class Histogram:
    """``counts[i]`` activations lie between ``edges[i]`` and ``edges[i + 1]``."""

    edges: Float[np.ndarray, "edge"]
    counts: Int[np.ndarray, "bin"]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or len(self.counts) == 0:
            raise HookedWhisperError(
                f"{len(self.counts)} counts got {len(self.edges)} edges: give one edge more than counts"
            )
        if not np.isfinite(self.edges).all() or (np.diff(self.edges) <= 0).any() or (self.counts < 0).any():
            raise HookedWhisperError(
                "the edges of a histogram must ascend and be finite, and its counts must not be negative"
            )


@dataclass(frozen=True)
class PhoneShare:
    """Share of a range's examples with a phone, and its Wilson interval."""

    phone: str
    share: Number
    low: Number
    high: Number

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.share <= self.high <= 1:
            raise HookedWhisperError(
                f"share of {self.phone!r}: need 0 <= low <= share <= high <= 1, "
                f"got {self.low}, {self.share}, {self.high}"
            )


@dataclass(frozen=True)
class ActivationRange:
    """Number and phones of the activations from ``low`` to ``high``. entropy: of the phones, in nats."""

    low: Number
    high: Number
    count: int
    phones: tuple[PhoneShare, ...]
    entropy: Number

    def __post_init__(self) -> None:
        _finite("a range", self.low, self.high, self.entropy)
        if self.low > self.high or self.count < 0 or sum(p.share for p in self.phones) > 1.001:
            raise HookedWhisperError(
                f"range {self.low} to {self.high} with {self.count} examples: give ascending edges, and shares that "
                "sum to at most 1"
            )


@dataclass(frozen=True, eq=False)
class OnsetMeans:
    """Mean activation around the onsets of each phone; ``lags_s`` is negative before the onset."""

    lags_s: Float[np.ndarray, "lag"]
    means: Mapping[str, Float[np.ndarray, "..."]]  # [lag] each; checked below, with words

    def __post_init__(self) -> None:
        if len(self.lags_s) < 2 or not np.isfinite(self.lags_s).all() or (np.diff(self.lags_s) <= 0).any():
            raise HookedWhisperError(
                f"{len(self.lags_s)} lags are given: give at least 2 finite lags in ascending order"
            )
        for phone, mean in self.means.items():
            if mean.shape != self.lags_s.shape or not np.isfinite(mean).all():
                raise HookedWhisperError(
                    f"means of {phone!r} have shape {mean.shape}: give {len(self.lags_s)} finite numbers"
                )


@dataclass(frozen=True)
class LogitEffects:
    """Tokens that a unit promotes and suppresses, strongest first, for units that write to the logits directly."""

    pos_str: tuple[str, ...]
    pos_values: tuple[Number, ...]
    neg_str: tuple[str, ...]
    neg_values: tuple[Number, ...]

    def __post_init__(self) -> None:
        if len(self.pos_str) != len(self.pos_values) or len(self.neg_str) != len(self.neg_values):
            raise HookedWhisperError(
                f"{len(self.pos_str)} and {len(self.neg_str)} tokens got {len(self.pos_values)} and "
                f"{len(self.neg_values)} values: give one value per token"
            )
        _finite("logit effects", *self.pos_values, *self.neg_values)


@dataclass(frozen=True, eq=False)
class MeanMel:
    """Mean log-mel around the peaks: an acoustic receptive field. ``peak_frame`` is the frame of the peaks."""

    values: Float[np.ndarray, "mel frame"]
    peak_frame: int

    def __post_init__(self) -> None:
        if not np.isfinite(self.values).all() or not 0 <= self.peak_frame < self.values.shape[1]:
            raise HookedWhisperError(
                f"a mean mel of {list(self.values.shape)} has its peak at frame {self.peak_frame}: give finite values "
                "and a frame of the mel"
            )


@dataclass(frozen=True, eq=False)
class Unit:
    """Everything on the page of a unit.

    Attributes:
        label: for instance ``/s/``.
        evidence: why it has this label.
        score: how selective the unit is, in the site's ``measure``; ``None`` if it is unknown.
        ranges: from low to high; ``UnitExample.group`` counts them from 0.
        base_rates: share of all positions by phone.
        nearest: ``(index, cosine)`` of units with similar weights.
        selectivity: further scores by name.
        notes: sentences.
        companions: ``(index, share)`` of units with the same strongest moments, and the share of moments that agree.
        decoder_norms: of a crosscoder's feature at each hook point.
    """

    index: int
    stats: UnitStats
    label: str = ""
    evidence: str = ""
    score: Number | None = None
    histogram: Histogram | None = None
    ranges: tuple[ActivationRange, ...] = ()
    base_rates: Mapping[str, Number] = field(default_factory=dict)
    onset: OnsetMeans | None = None
    logits: LogitEffects | None = None
    mean_mel: MeanMel | None = None
    nearest: tuple[tuple[int, Number], ...] = ()
    selectivity: Mapping[str, Number] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    examples: tuple[UnitExample, ...] = ()
    companions: tuple[tuple[int, Number], ...] = ()
    decoder_norms: tuple[DecoderNorm, ...] = ()

    def __post_init__(self) -> None:
        if self.index < 0:
            raise HookedWhisperError(f"the index of a unit is {self.index}, expected at least 0")
        if self.score is not None:
            _finite(f"the score of unit {self.index} (use None for no score)", self.score)
        similar = (*dict(self.nearest).values(), *dict(self.companions).values())
        norms = [number for entry in self.decoder_norms for number in (entry.norm, entry.relative)]
        numbers = (*self.base_rates.values(), *self.selectivity.values(), *norms)
        _finite(f"unit {self.index}", *numbers, *similar)
        for example in self.examples:
            if isinstance(example.group, int) and not 0 <= example.group < len(self.ranges):
                raise HookedWhisperError(
                    f"unit {self.index} has {len(self.ranges)} ranges, an example has range {example.group}"
                )


def _finite(name: str, *values: Number) -> None:
    if not np.isfinite(values).all():
        raise HookedWhisperError(f"{name}: a value is NaN or infinite: omit it or give None")
