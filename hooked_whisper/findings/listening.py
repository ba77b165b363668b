"""F18: do the clips amplify a neuron's strongest moment as the published clips do, and do fades avoid clicks?

Source: the sound files of the blog post of 2023-09-05, measured: 16 kHz, factor 10 on 1,000 samples, peaks up to 7.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import butter, sosfiltfilt

from hooked_whisper.activations import clip_recordings, iter_activations
from hooked_whisper.audio import SAMPLE_RATE, clip_around
from hooked_whisper.findings.core.context import ENCODER_BATCH, Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import BLUE, ORANGE, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 200
HOOK = "encoder.blocks.{}.mlp.hook_post"
CUTOFF = 4_000  # Hz
GAIN_DB, WIDTH = 20.0, 1_000
TOLERANCE = 0.1  # dB
ENOUGH = 50
DRAWS = 2000

INSIDE = "gain inside the window: distance from +20 dB"
OUTSIDE = "gain outside the window and its fades: distance from 0 dB"
COUNT = "samples at the full factor: distance from 1,000"
LIMITED = "largest peak of the limited copies"
QUIETER = "moments that click less with fades than without"
_HIGH = butter(8, CUTOFF, "highpass", fs=SAMPLE_RATE, output="sos")


@dataclass(frozen=True)
class Moment:
    """The moment at which a neuron's activation is largest: index of the utterance, time, and index of the neuron."""

    utterance: int
    seconds: float
    unit: int


@dataclass(frozen=True, eq=False)
class AmplifiedMoments:
    """Measurements of amplified clips, one per moment.

    Attributes:
        inside, outside: gain in dB inside and outside the amplified window.
        samples: number of samples at the full factor.
        peak, limited: largest absolute sample of the clip and of its limited copy.
        click, click_without_fades: energy that the gain adds above 4 kHz at its edges, in dB relative to the clip
            there.
    """

    inside: Float[np.ndarray, "moment"]
    outside: Float[np.ndarray, "moment"]
    samples: Float[np.ndarray, "moment"]
    peak: Float[np.ndarray, "moment"]
    limited: Float[np.ndarray, "moment"]
    click: Float[np.ndarray, "moment"]
    click_without_fades: Float[np.ndarray, "moment"]


@torch.no_grad()
def find_moments(context: Context) -> list[Moment]:
    """Return the moments at which the neurons of the middle block are largest: at most :data:`MOST`, drawn at
    random."""
    model = context.model
    name = HOOK.format(model.cfg.encoder.n_layers // 2)
    best = np.full(model.cfg.encoder.d_mlp, -np.inf)
    location = np.zeros((model.cfg.encoder.d_mlp, 2), dtype=int)  # utterance, position
    batches = iter_activations(model, clip_recordings(context.utterances), name, batch=ENCODER_BATCH)
    for batch in context.track(batches, "F18 moments", -(-len(context.utterances) // ENCODER_BATCH)):
        for window, rows in batch.by_window():
            top, position = batch.rows[name][rows].float().max(0)
            value = top.cpu().numpy()
            better = value > best
            best = np.maximum(best, value)
            location[better, 0], location[better, 1] = window.recording, position.cpu().numpy()[better]
    units = context.rng("F18").permutation(len(best))[:MOST]
    seconds = context.seconds_per_position
    return [Moment(int(location[u, 0]), float(location[u, 1] * seconds), int(u)) for u in units]


def measure_clips(context: Context, moments: Sequence[Moment], gain: float | int = 10.0) -> AmplifiedMoments:
    """Amplify each moment with :func:`~hooked_whisper.audio.clip_around`, and measure the samples."""
    rows = [_measure_clip(context.utterances[m.utterance].samples, m.seconds, gain) for m in moments]
    return AmplifiedMoments(*np.array(rows, dtype=float).reshape(-1, 7).T)


def _measure_clip(audio: Float[np.ndarray, "sample"], seconds: float, gain: float | int) -> tuple[float, ...]:
    plain = clip_around(audio, seconds, gain=1.0).clip.double().numpy()
    amplified = clip_around(audio, seconds, gain=gain)
    loud = amplified.clip.double().numpy()
    loud_without_fades = clip_around(audio, seconds, gain=gain, fade_s=0.0).clip.double().numpy()
    plain_without_fades = clip_around(audio, seconds, gain=1.0, fade_s=0.0).clip.double().numpy()
    n, fade = len(plain), round(0.005 * SAMPLE_RATE)
    start, stop = (n - WIDTH) // 2, (n + WIDTH) // 2
    inside = np.zeros(n, dtype=bool)
    inside[start:stop] = True
    outside = np.ones(n, dtype=bool)
    outside[start - fade : stop + fade] = False
    sounding = np.abs(plain) > 1e-6
    full = int((np.abs(loud[sounding] / plain[sounding] - gain) < 1e-5 * gain).sum()) + int((inside & ~sounding).sum())
    edges = np.zeros(n, dtype=bool)
    for edge in (start, stop):
        edges[edge - 2 * fade : edge + 2 * fade] = True
    return (
        _db(loud[inside], plain[inside]),
        _db(loud[outside], plain[outside]),
        float(full),
        float(np.abs(loud).max()),
        float(amplified.limited.abs().max()),
        _click(plain, loud, edges),
        _click(plain_without_fades, loud_without_fades, edges),
    )


def _db(a: np.ndarray, b: np.ndarray) -> float:
    """Return the ratio of the RMS of ``a`` to that of ``b`` in dB; NaN for silence."""
    low, high = float(np.square(b).sum()), float(np.square(a).sum())
    return 10 * np.log10(high / low) if low > 1e-12 and high > 0 else np.nan


def _click(plain: Float[np.ndarray, "sample"], loud: Float[np.ndarray, "sample"], edges: np.ndarray) -> float:
    """Return the energy above 4 kHz that the gain creates at its edges, in dB relative to the clip's energy there.

    A slow gain commutes with the high-pass filter and creates no energy; a sudden gain does not.
    """
    factor = np.divide(loud, plain, out=np.ones_like(plain), where=np.abs(plain) > 1e-9)
    added = sosfiltfilt(_HIGH, loud) - factor * sosfiltfilt(_HIGH, plain)
    return _db(added[edges], loud[edges])


@dataclass(frozen=True, eq=False)
class ListeningMeasurement:
    """Measurements of clips with the default gain and with a gain of 1."""

    moments: tuple[Moment, ...]
    amplified: AmplifiedMoments
    unamplified: AmplifiedMoments


class Listening(Experiment[ListeningMeasurement]):
    """F18: make the strongest moments of neurons audible."""

    id, title = "F18", "Moments made audible"
    claim = (
        "A clip can be made ten times louder at a neuron's strongest moment without changing the rest or adding clicks."
    )
    protocol = (
        "For every MLP neuron of a middle encoder block, the moment of its largest activation over all utterances is "
        "found; up to 200 of these are drawn at random. Each moment is cut out by the library's function with its "
        "defaults (1 s, factor 10 on 62.5 ms, fades of 5 ms). All measurements use only the samples: the RMS of the "
        "clip relative to that of the audio, inside the 1,000 samples and outside them (without the fades); the number "
        "of samples at the full factor; and peaks. The click is the energy that the gain adds above 4 kHz near its "
        "edges: the high-passed amplified clip minus the amplified high-passed audio. Intervals: 95 %, bootstrap over "
        "moments. Controls: factor 1; no fades (compared with itself)."
    )
    published = (
        Table(
            "Published clips",
            "sound files of the blog post, measured",
            ("property", "value"),
            (
                ("sample rate", "16 kHz, float"),
                ("length", "1.5 s, 1.0 s, 0.5 s"),
                ("gain", "x10 (+20 dB) on about 1,000 samples (62.5 ms), no fades"),
                ("peak", "up to 7.4: 16-bit files would clip"),
            ),
        ),
    )
    published_summary = "x10 on 1,000 samples, peaks up to 7.4, no fades"

    def parameters(self, context: Context) -> dict[str, Any]:
        hook = HOOK.format(context.model.cfg.encoder.n_layers // 2)
        return {"hook": hook, "moments": MOST, "cutoff_hz": CUTOFF}

    def measure(self, context: Context) -> ListeningMeasurement:
        """Run one encoder pass over the utterances. All other measurements are arithmetic on samples."""
        if not context.utterances:
            raise Untestable("no speech: pass --audio or --corpus")
        moments = find_moments(context)
        return ListeningMeasurement(
            tuple(moments), measure_clips(context, moments), measure_clips(context, moments, gain=1.0)
        )

    def judge(self, measured: ListeningMeasurement, setting: Setting) -> Finding:
        moments, loud, plain = measured.moments, measured.amplified, measured.unamplified
        rng = setting.rng("F18 bootstrap")
        quieter = (loud.click < loud.click_without_fades).astype(float)

        def worst(values: Float[np.ndarray, "moment"]) -> Estimate:
            """Return the largest distance of any moment, without an interval."""
            known = np.abs(values[np.isfinite(values)])
            return Estimate(float(known.max()) if len(known) else None)

        def mean(values: Float[np.ndarray, "moment"]) -> Estimate:
            known = values[np.isfinite(values)]
            if not len(known):
                return Estimate(None)
            drawn = rng.integers(len(known), size=(DRAWS, len(known)))
            return Estimate.of(float(known.mean()), known[drawn].mean(1))

        criteria = (
            Criterion(INSIDE, worst(loud.inside - GAIN_DB), TOLERANCE, "at most", "dB"),
            Criterion(OUTSIDE, worst(loud.outside), TOLERANCE, "at most", "dB"),
            Criterion(COUNT, worst(loud.samples - WIDTH), 0, "at most"),
            Criterion(LIMITED, worst(loud.limited), 1, "at most"),
            Criterion(QUIETER, mean(quieter), 0.95, "at least"),
            Criterion("moments", Estimate(len(moments)), ENOUGH, "at least", role="gate"),
        )
        controls = (
            Control(
                "factor 1",
                "the same function without a gain",
                {
                    INSIDE: worst(plain.inside - GAIN_DB),
                    OUTSIDE: worst(plain.outside),
                    COUNT: worst(plain.samples - WIDTH),
                    LIMITED: worst(plain.limited),
                },
            ),
            Control("no fades", "a gain without fades, compared with itself", {QUIETER: mean(0 * quieter)}),
        )
        beyond = mean((loud.peak > 1).astype(float))
        rows = {
            "gain inside (dB)": mean(loud.inside),
            "gain outside (dB)": mean(loud.outside),
            "samples at the full factor": mean(loud.samples),
            "share of clips beyond full scale": beyond,
            "peak of the clip": mean(loud.peak),
            "peak of the limited copy": mean(loud.limited),
            "click with fades (dB)": mean(loud.click),
            "click without fades (dB)": mean(loud.click_without_fades),
        }
        return self.finding(
            setting,
            criteria=criteria,
            controls=controls,
            measurements=(
                Measurement(
                    "means over moments",
                    (Axis("property", tuple(rows)), Axis("bound", ("value", "low", "high"))),
                    np.array([estimate.row for estimate in rows.values()]),
                ),
                Measurement(
                    "click",
                    (Axis("moment", tuple(range(len(moments)))), Axis("gain", ("with fades", "without fades"))),
                    np.stack([loud.click, loud.click_without_fades], 1),
                    "dB",
                ),
            ),
            notes=(
                f"The largest peak is {np.max(loud.peak):.1f}; {np.mean(loud.peak > 1):.0%} of the clips are beyond "
                "full scale before they are limited. This share depends on the level of the recordings, so it is "
                "not judged.",
                f"{len(moments)} moments of {len({m.utterance for m in moments})} utterances; neurons may share one.",
                "This finding does not test whether the neuron responds to the amplified sound; the findings on phones "
                "do.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the share of moments that click less and its control, and histograms of both clicks."""
        clicks = finding.measurement("click")
        title = "Energy that the gain adds above 4 kHz"
        figure, axes = new_figure(title, "dB relative to the sound at the gain's edges", "moments")
        known = clicks.values[np.isfinite(clicks.values).all(1)]
        for k, (name, color) in enumerate(zip(clicks.axis("gain").entries, (BLUE, ORANGE), strict=True)):
            if len(known):
                axes.hist(known[:, k], bins=24, color=color, alpha=0.6, label=str(name))
        add_legend(axes)
        means = known.mean(0) if len(known) else np.full(2, np.nan)
        figure.set_label(alt_text("Mean click", means, ["with fades", "without fades"], "dB", 1.0))
        return [draw_controls(finding, 4, "share of moments"), figure]
