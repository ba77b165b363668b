"""Where the positions after the end of a clip look (F1).

Four versions of each clip separate two explanations: the end of speech, and an edge at which the sound becomes zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from hooked_whisper.corpora import Clip
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, ORANGE, add_legend, alt_text, draw_bars, new_figure
from hooked_whisper.findings.core.finding import Estimate, Finding
from hooked_whisper.findings.core.records import BOUNDS, Axis, Measurement
from hooked_whisper.findings.core.statistics import bootstrap
from hooked_whisper.findings.relevance_parts.measures import HALF_WIDTH
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINK = "rows after the end that look at the end of speech, clips as recorded"
CUT = "rows after a cut that look at the cut"

# Thresholds, fixed before the first run of these four versions.
LEAST = 0.8  # share of rows; the published figure shows one dark column for all rows after the end
MOST_ROWS = 0.5  # least share of rows for a version to count as "looks at the boundary" in the explanation
# A row near the boundary that looks only at its own neighborhood would count as looking at the boundary (2 % of the
# rows with purely local attention). Rows are therefore judged only where the two neighborhoods of 25 positions do not
# meet.
CLEAR_OF = 2 * HALF_WIDTH + 1
CUT_AT = 0.4  # share of the time from the first word's start to the last word's end; the word there is cut in half
FADE_SECONDS = 0.5
NOISE_DB = -50.0  # relative to the speech: as in a quiet room, but above the spectrogram's floor for zeros

RECORDED, FADED, CUT_SHORT, NOISE = "as recorded", "faded out", "cut within speech", "noise behind"
VERSIONS = (RECORDED, FADED, CUT_SHORT, NOISE)
HAS_EDGE = {RECORDED: "perhaps", FADED: "no", CUT_SHORT: "yes", NOISE: "no"}


@dataclass(frozen=True, eq=False)
class MarkedClip:
    """A clip whose transcript is explained, and where its speech is.

    clip: its text is the transcript. speech: positions of the speech. n_clip: number of positions that the signal
        fills.
    boundary: the position at which speech ends. quiet: the first position of what follows (padding, silence or noise).
    """

    clip: Clip
    speech: slice
    n_clip: int
    boundary: int
    quiet: int


@dataclass(frozen=True)
class Sink:
    """Statistics of the rows after the end.

    share: share of the rows that look at the boundary.
    peak, distance: median position of the most relevant audio, and its median distance to the boundary (positions).
    local: share of the rows that look at their own neighborhood.
    """

    share: float
    peak: float
    distance: float
    local: float


def sink_of(
    relevance: Float[np.ndarray, "row position"], rows: Int[np.ndarray, "row"], boundary: int, quiet: int
) -> Sink:
    """Return the statistics of the rows from ``quiet`` on that are not near ``boundary``; NaN if there are none."""
    judged = (rows >= max(quiet, boundary + CLEAR_OF)) & (relevance.sum(1) > 0)
    if not judged.any():
        return Sink(np.nan, np.nan, np.nan, np.nan)
    peaks = relevance[judged].argmax(1)
    away = np.abs(peaks - boundary)
    itself = np.abs(peaks - rows[judged]) <= HALF_WIDTH
    near = away <= HALF_WIDTH
    return Sink(float(near.mean()), float(np.median(peaks)), float(np.median(away)), float(itself.mean()))


def whole_clip(context: Context, i: int) -> MarkedClip:
    """Return the clip as recorded, followed by zeros."""
    clip, n = context.utterances[i], context.n_positions[i]
    speech = _spoken_span(context, clip, n)
    return MarkedClip(_changed(context, i, clip.samples), speech, n, speech.stop, n)


def faded_clip(context: Context, i: int) -> MarkedClip | None:
    """Return the clip with its last half second of speech faded to zero by a raised cosine, so that there is no edge.

    ``None`` if no word has a time.
    """
    clip, time = context.utterances[i], context.model.time
    words = _timed(context, clip)
    if not words:
        return None
    audio = np.array(clip.samples[: time.sample(words[-1].end)], dtype=np.float32)
    n_fade = min(round(FADE_SECONDS * time.sample_rate), len(audio))
    audio[len(audio) - n_fade :] *= 0.5 * (1 + np.cos(np.linspace(0, np.pi, n_fade, dtype=np.float32)))
    return _ending_at(context, i, audio, None, words[0].start)


def cut_clip(context: Context, i: int) -> MarkedClip | None:
    """Return the clip cut in the middle of a word near 40 % of its speech. The text is the words before the cut.

    ``None`` if there are fewer than two words with times.
    """
    clip, time = context.utterances[i], context.model.time
    words = _timed(context, clip)
    if len(words) < 2:
        return None
    aim = words[0].start + CUT_AT * (words[-1].end - words[0].start)
    middles = np.array([(w.start + w.end) / 2 for w in words[1:]])
    k = 1 + int(np.abs(middles - aim).argmin())
    text = " ".join(w.label for w in words[:k])
    return _ending_at(context, i, clip.samples[: time.sample(middles[k - 1])], text, words[0].start)


def noisy_clip(context: Context, i: int) -> MarkedClip | None:
    """Return the clip with faint noise from the end of the speech to the end of the window, so that there is no edge.

    ``None`` if no word has a time.
    """
    clip, time = context.utterances[i], context.model.time
    words = _timed(context, clip)
    if not words:
        return None
    begin, end = time.sample(words[0].start), time.sample(words[-1].end)
    level = float(np.sqrt(np.mean(np.square(clip.samples[begin:end], dtype=np.float64))))
    n_noise = round(time.duration * time.sample_rate) - end
    noise = context.rng(f"noise {i}").standard_normal(max(n_noise, 0)) * level * 10 ** (NOISE_DB / 20)
    audio = np.concatenate([clip.samples[:end], noise.astype(np.float32)])
    n = context.model.cfg.encoder.n_ctx
    boundary = min(time.n_positions(words[-1].end), n)
    speech = slice(min(time.position(words[0].start), boundary), boundary)
    return MarkedClip(_changed(context, i, audio), speech, n, boundary, boundary)


MAKERS: Mapping[str, Callable[[Context, int], MarkedClip | None]] = {
    RECORDED: whole_clip,
    FADED: faded_clip,
    CUT_SHORT: cut_clip,
    NOISE: noisy_clip,
}


def _changed(context: Context, i: int, samples: Float[np.ndarray, "sample"], text: str | None = None) -> Clip:
    """Return the clip with other samples, and with ``text`` or else its reference as its text."""
    recording = replace(context.utterances[i].recording, text=context.references[i] if text is None else text)
    return Clip(recording, samples)


def _timed(context: Context, utterance: Clip) -> list[Interval]:
    """Return the words that have a duration and end within the window."""
    return [w for w in utterance.alignment.words if w.duration > 0 and w.end <= context.model.time.duration]


def _ending_at(
    context: Context, i: int, audio: Float[np.ndarray, "sample"], text: str | None, start: float
) -> MarkedClip:
    time = context.model.time
    n = time.n_positions(len(audio) / time.sample_rate)
    return MarkedClip(_changed(context, i, audio, text), slice(min(time.position(start), n), n), n, n, n)


def _spoken_span(context: Context, utterance: Clip, n_clip: int) -> slice:
    """Return the positions from the first word to the last, within the clip, or the whole clip if no word has a
    time."""
    words = _timed(context, utterance)
    if not words:
        return slice(0, n_clip)
    span = context.model.time.span(words[0].start, words[-1].end)
    return slice(min(span.start, n_clip), min(span.stop, n_clip))


def share_estimate(shares: Sequence[float], rng: np.random.Generator) -> Estimate:
    """Return the mean share over clips, with a bootstrap over clips."""
    known = np.array(shares, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Estimate(None)
    return Estimate.of(float(known.mean()), bootstrap(len(known), lambda i: float(known[i].mean()), rng))


def explanation(shares: Mapping[str, float | None]) -> str:
    """Return the explanation that the shares support, by whether at least half of the rows of each version look at the
    boundary."""
    faded, cut, noise = (shares.get(name) for name in (FADED, CUT_SHORT, NOISE))
    if faded is None or cut is None or noise is None:
        return "The words have no times, so it was not measured whether the end of speech or an edge attracts the rows."
    without_edge, with_edge = [x >= MOST_ROWS for x in (faded, noise)], cut >= MOST_ROWS
    if all(without_edge):
        return "The rows look at the end of speech even without an edge: the end of speech attracts them."
    if with_edge and not any(without_edge):
        return (
            "The rows look at the boundary if the sound stops abruptly, but not if it fades out or noise follows: an "
            "edge from sound to zero attracts them, not the end of speech. The published clip was cut and had such an "
            "edge."
        )
    if not with_edge and not any(without_edge):
        return "In no version do most rows look at the boundary: neither the end of speech nor an edge attracts them."
    return (
        "The versions without an edge disagree, so these numbers do not decide between the end of speech and an edge."
    )


def sink_measurements(
    sinks: Mapping[str, Sequence[Sink]],
    clips: Mapping[str, Sequence[MarkedClip]],
    seconds: float,
    rng: np.random.Generator,
) -> tuple[Measurement, ...]:
    """Return the share of rows and the distance by version, with intervals, and the values of every clip."""
    statistics = ("share of rows", "distance (s)", "share of rows that look at themselves")
    table = np.full((len(VERSIONS), 3, 3), np.nan)
    most = max((len(rows) for rows in sinks.values()), default=0)
    each = np.full((len(VERSIONS), most, 4), np.nan)
    for v, version in enumerate(VERSIONS):
        rows = sinks.get(version, ())
        table[v, 0] = share_estimate([s.share for s in rows], rng).row
        table[v, 2] = share_estimate([s.local for s in rows], rng).row
        away = np.array([s.distance for s in rows if np.isfinite(s.distance)]) * seconds
        if len(away):
            samples = bootstrap(len(away), lambda i, a=away: float(np.median(a[i])), rng)  # type: ignore[misc]
            table[v, 1] = Estimate.of(float(np.median(away)), samples).row
        for k, (sink, clip) in enumerate(zip(rows, clips.get(version, ()), strict=True)):
            each[v, k] = [sink.share, sink.peak * seconds, clip.boundary * seconds, clip.n_clip * seconds]
    version_axis = Axis("version", VERSIONS)
    columns = Axis("what", ("share of rows", "peak (s)", "end of speech (s)", "end of signal (s)"))
    return (
        Measurement("where rows after the end look", (version_axis, Axis("statistic", statistics), BOUNDS), table),
        Measurement(
            "where rows after the end look, by clip", (version_axis, Axis("clip", tuple(range(most))), columns), each
        ),
    )


def sink_notes(table: Measurement) -> tuple[str, ...]:
    """Return notes on the shares and distances by version, and the explanation that they support."""
    parts, shares = [], {}
    for version in VERSIONS:
        share = float(table.at(version=version, statistic="share of rows", bound="value"))
        away = float(table.at(version=version, statistic="distance (s)", bound="value"))
        if np.isfinite(share):
            shares[version] = share
            itself = float(table.at(version=version, statistic="share of rows that look at themselves", bound="value"))
            parts.append(f"{version}: {share:.0%}, {away:.1f} s, {itself:.0%}")
    if not parts:
        return ("Rows after the end were not measured, because no clip leaves enough of the window empty.",)
    return (
        "For each version: share of rows after the end whose most relevant position is within 0.5 s of the end of "
        "speech (or the cut), median distance of that position from it, and share of rows that look within 0.5 s of "
        f"themselves: {'; '.join(parts)}.",
        explanation(shares),
    )


def draw_sink(finding: Finding) -> Figure:
    """Draw the share of rows that look at the boundary, for the four versions."""
    table = finding.measurement("where rows after the end look")
    values = 100 * table.at(statistic="share of rows")
    figure, axes = new_figure("Where rows after the end look", "rows that look at the boundary (%)", "")
    heights = np.arange(len(VERSIONS))[::-1]
    draw_bars(axes, heights, values, [BLUE] * len(VERSIONS))
    axes.set_yticks(heights, [f"{name}\n(edge: {HAS_EDGE[name]})" for name in VERSIONS])
    axes.axvline(100 * LEAST, color=ORANGE, linestyle="--", label=f"needs at least {LEAST:.0%}")
    axes.set_xlim(0, 103)
    figure.set_label(alt_text("Rows after the end that look at the boundary", values[:, 0], VERSIONS, "%", 1.0))
    add_legend(axes, below=True)
    return figure
