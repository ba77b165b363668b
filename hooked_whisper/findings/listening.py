"""F18: how moments are made audible. Does our clip do what the published ones did, and what do its fades buy?

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

from hooked_whisper.audio import SAMPLE_RATE, clip_around
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, ORANGE, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F18", "Moments made audible"
CLAIM = "A clip can be made ten times louder at a neuron's strongest moment without changing the rest or adding clicks."
PROTOCOL = (
    "Moments: the largest one of every MLP neuron of a middle encoder block, over all utterances, at most 200, drawn "
    "at random. Each is cut out by the library's helper with its defaults (1 s, factor 10 on 62.5 ms, fades of 5 ms) "
    "and measured on the samples alone: RMS of clip over RMS of the audio inside the 1,000 samples and outside them "
    "(fades left out), number of samples at the full factor, peaks. Click: what the gain adds to the band above 4 kHz, "
    "that is the band of the louder clip less the louder band of the audio, as energy within 5 ms of the gain's edges. "
    "Intervals: 95 %, bootstrap over moments. Controls: factor 1; no fades (against itself)."
)
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
PUBLISHED = Table(
    "Published clips",
    "sound files of the blog post, measured",
    ("property", "value"),
    (
        ("sample rate", "16 kHz, float"),
        ("length", "1.5 s, 1.0 s, 0.5 s"),
        ("gain", "x10 (+20 dB) on about 1,000 samples (62.5 ms), no fades"),
        ("peak", "up to 7.4: 16-bit files would clip"),
    ),
)
_HIGH = butter(8, CUTOFF, "highpass", fs=SAMPLE_RATE, output="sos")


@dataclass(frozen=True)
class Moment:
    """A neuron's largest activation: which utterance and second, in which neuron."""

    utterance: int
    seconds: float
    unit: int


@dataclass(frozen=True, eq=False)
class Heard:
    """One row per moment. Gains in dB, clicks in dB relative to the louder audio's own energy above 4 kHz there."""

    inside: Float[np.ndarray, "moment"]
    outside: Float[np.ndarray, "moment"]
    samples: Float[np.ndarray, "moment"]
    peak: Float[np.ndarray, "moment"]
    limited: Float[np.ndarray, "moment"]
    click: Float[np.ndarray, "moment"]
    click_without_fades: Float[np.ndarray, "moment"]


@torch.no_grad()
def moments(context: Context) -> list[Moment]:
    """Where each neuron of a middle block is largest, over the positions that sound fills; at most :data:`MOST`."""
    model = context.model
    name = HOOK.format(model.cfg.encoder.n_layers // 2)
    best = np.full(model.cfg.encoder.d_mlp, -np.inf)
    where = np.zeros((model.cfg.encoder.d_mlp, 2), dtype=int)
    for batch in context.track(context.batches(), "F18 moments"):
        _, cache = model.run_with_cache(context.mels(batch), names_filter=name, stop_early=True)
        for row, index in enumerate(batch):
            top, at = cache[name][row, : context.n_positions[index]].float().max(0)
            value = top.cpu().numpy()
            better = value > best
            best = np.maximum(best, value)
            where[better, 0], where[better, 1] = index, at.cpu().numpy()[better]
    chosen = context.rng("F18").permutation(len(best))[:MOST]
    seconds = context.seconds_per_position
    return [Moment(int(where[u, 0]), float(where[u, 1] * seconds), int(u)) for u in chosen]


def measure(context: Context, some: Sequence[Moment], gain: float | int = 10.0) -> Heard:
    """What the helper did to each moment, from the samples alone."""
    rows = [_measure(context.utterances[m.utterance].samples, m.seconds, gain) for m in some]
    return Heard(*np.array(rows, dtype=float).reshape(-1, 7).T)


def _measure(audio: Float[np.ndarray, "sample"], seconds: float, gain: float | int) -> tuple[float, ...]:
    plain = clip_around(audio, seconds, gain=1.0).clip.double().numpy()
    found = clip_around(audio, seconds, gain=gain)
    loud = found.clip.double().numpy()
    hard = clip_around(audio, seconds, gain=gain, fade_s=0.0).clip.double().numpy()
    bare = clip_around(audio, seconds, gain=1.0, fade_s=0.0).clip.double().numpy()
    n, fade = len(plain), round(0.005 * SAMPLE_RATE)
    inside = np.zeros(n, dtype=bool)
    inside[(n - WIDTH) // 2 : (n + WIDTH) // 2] = True
    outside = np.ones(n, dtype=bool)
    outside[(n - WIDTH) // 2 - fade : (n + WIDTH) // 2 + fade] = False
    sounding = np.abs(plain) > 1e-6
    full = int((np.abs(loud[sounding] / plain[sounding] - gain) < 1e-5 * gain).sum()) + int((inside & ~sounding).sum())
    edge = np.zeros(n, dtype=bool)
    for at in ((n - WIDTH) // 2, (n + WIDTH) // 2):
        edge[at - 2 * fade : at + 2 * fade] = True
    clicks = (_click(plain, loud, edge), _click(bare, hard, edge))
    return (
        _db(loud[inside], plain[inside]),
        _db(loud[outside], plain[outside]),
        float(full),
        float(np.abs(loud).max()),
        float(found.limited.abs().max()),
        *clicks,
    )


def _db(a: np.ndarray, b: np.ndarray) -> float:
    """RMS ratio; NaN of silence."""
    low, high = float(np.square(b).sum()), float(np.square(a).sum())
    return 10 * np.log10(high / low) if low > 1e-12 and high > 0 else np.nan


def _click(plain: Float[np.ndarray, "sample"], loud: Float[np.ndarray, "sample"], edge: np.ndarray) -> float:
    """Energy above 4 kHz at the edges that a gain makes of sound below it, in dB of the whole sound's there: a slow
    gain and a filter can change places, a sudden one cannot."""
    factor = np.divide(loud, plain, out=np.ones_like(plain), where=np.abs(plain) > 1e-9)
    added = sosfiltfilt(_HIGH, loud) - factor * sosfiltfilt(_HIGH, plain)
    return _db(added[edge], loud[edge])


def run(context: Context) -> Finding:
    """One encoder pass over the utterances; the rest is arithmetic on samples."""
    if not context.utterances:
        return _finding(context, reason="no speech: pass --audio or --corpus")
    some = moments(context)
    return _finding(context, some, measure(context, some), measure(context, some, gain=1.0))


def _finding(
    context: Context,
    some: Sequence[Moment] = (),
    ours: Heard | None = None,
    flat: Heard | None = None,
    reason: str = "",
) -> Finding:
    layers = context.model.cfg.encoder.n_layers
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published": (PUBLISHED,),
        "published_summary": "x10 on 1,000 samples, peaks up to 7.4, no fades",
        "parameters": {"hook": HOOK.format(layers // 2), "moments": MOST, "cutoff_hz": CUTOFF},
    }
    if ours is None or flat is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("F18 bootstrap")
    quieter = (ours.click < ours.click_without_fades).astype(float)

    def worst(values: Float[np.ndarray, "moment"]) -> Estimate:
        """The largest distance of any moment: no interval, it is what was found at worst."""
        known = np.abs(values[np.isfinite(values)])
        return Estimate(float(known.max()) if len(known) else None)

    def mean(values: Float[np.ndarray, "moment"]) -> Estimate:
        known = values[np.isfinite(values)]
        if not len(known):
            return Estimate(None)
        drawn = rng.integers(len(known), size=(DRAWS, len(known)))
        return Estimate.of(float(known.mean()), known[drawn].mean(1))

    criteria = (
        Criterion(INSIDE, worst(ours.inside - GAIN_DB), TOLERANCE, "at most", "dB"),
        Criterion(OUTSIDE, worst(ours.outside), TOLERANCE, "at most", "dB"),
        Criterion(COUNT, worst(ours.samples - WIDTH), 0, "at most"),
        Criterion(LIMITED, worst(ours.limited), 1, "at most"),
        Criterion(QUIETER, mean(quieter), 0.95, "at least"),
        Criterion("moments", Estimate(len(some)), ENOUGH, "at least", role="gate"),
    )
    controls = (
        Control(
            "factor 1",
            "the same helper without a gain",
            {
                INSIDE: worst(flat.inside - GAIN_DB),
                OUTSIDE: worst(flat.outside),
                COUNT: worst(flat.samples - WIDTH),
                LIMITED: worst(flat.limited),
            },
        ),
        Control("no fades", "a gain that begins at once, compared with itself", {QUIETER: mean(0 * quieter)}),
    )
    beyond = mean((ours.peak > 1).astype(float))
    rows = {
        "gain inside (dB)": mean(ours.inside),
        "gain outside (dB)": mean(ours.outside),
        "samples at the full factor": mean(ours.samples),
        "share of clips beyond full scale": beyond,
        "peak of the clip": mean(ours.peak),
        "peak of the limited copy": mean(ours.limited),
        "click with fades (dB)": mean(ours.click),
        "click without fades (dB)": mean(ours.click_without_fades),
    }
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "means over moments",
                (Axis("property", tuple(rows)), Axis("bound", ("value", "low", "high"))),
                np.array([e.row for e in rows.values()]),
            ),
            Measurement(
                "click",
                (Axis("moment", tuple(range(len(some)))), Axis("gain", ("with fades", "without fades"))),
                np.stack([ours.click, ours.click_without_fades], 1),
                "dB",
            ),
        ),
        notes=(
            f"The largest peak is {np.max(ours.peak):.1f}; {np.mean(ours.peak > 1):.0%} of the clips are beyond full "
            "scale before they are limited. How many depends on how loud the recordings are, so it is not judged.",
            f"{len(some)} moments of {len({m.utterance for m in some})} utterances; neurons may share one.",
            "That the neuron answers to what is amplified is not judged here, but in the findings on phones.",
        ),
    )


def draw(finding: Finding) -> list[Figure]:
    """Share of moments that click less, beside its control; both clicks, moment by moment."""
    if not finding.measurements:
        return []
    clicks = finding.measurement("click")
    figure, axes = new_figure("What the gain adds above 4 kHz", "dB of the sound at the gain's edges", "moments")
    known = clicks.values[np.isfinite(clicks.values).all(1)]
    for k, (name, colour) in enumerate(zip(clicks.axis("gain").entries, (BLUE, ORANGE), strict=True)):
        if len(known):
            axes.hist(known[:, k], bins=24, color=colour, alpha=0.6, label=str(name))
    add_legend(axes)
    means = known.mean(0) if len(known) else np.full(2, np.nan)
    figure.set_label(alt_text("Mean click", means, ["with fades", "without fades"], "dB", 1.0))
    return [draw_controls(finding, 4, "share of moments"), figure]
