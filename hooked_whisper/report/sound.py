"""Sound on a page: players with embedded sound, and a waveform with words and marked spans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked_whisper.audio import SAMPLE_RATE, to_data_uri
from hooked_whisper.corpora import Clip
from hooked_whisper.findings.core.records import Span

MOST_SECONDS = 30.0
_DAMPED = 0.04  # -28 dB: barely audible
_FADE_S = 0.01
_WIDTH, _HEIGHT, _LABELS = 360, 56, 16


@dataclass(frozen=True)
class Player:
    """One ``<audio>`` element: its sound as a data URI, and its label."""

    uri: str
    label: str


def player(samples: Float[np.ndarray, "sample"], label: str) -> Player | None:
    """Return a player for at most 30 s, or ``None`` if there are no samples."""
    cut = samples[: round(MOST_SECONDS * SAMPLE_RATE)]
    return Player(to_data_uri(cut), label) if len(cut) else None


def damped(samples: Float[np.ndarray, "sample"], spans: tuple[Span, ...]) -> Float[np.ndarray, "sample"]:
    """Return the clip with the spans turned down, to let a listener hear what a cut removes."""
    gain = np.ones(len(samples), np.float32)
    fade = max(1, round(_FADE_S * SAMPLE_RATE))
    for span in spans:
        start, end = (max(0, min(len(gain), round(t * SAMPLE_RATE))) for t in (span.start, span.end))
        gain[start:end] = _DAMPED
        for edge, rising in ((start, False), (end, True)):
            around = slice(max(0, edge - fade), min(len(gain), edge + fade))
            ramp = np.linspace(1, _DAMPED, around.stop - around.start, dtype=np.float32)
            if around.stop > around.start:
                gain[around] = ramp[::-1] if rising else ramp
    return (samples * gain).astype(np.float32)


@dataclass(frozen=True)
class WordLabel:
    """A word below the waveform, in units of the drawing."""

    x: float
    text: str
    cut: bool


@dataclass(frozen=True)
class Waveform:
    """The data of a waveform: an outline, marked spans ``(x, width)``, words."""

    path: str
    marks: tuple[tuple[float, float], ...]
    words: tuple[WordLabel, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    total_height: int = _HEIGHT + _LABELS
    alt: str = ""


def waveform(utterance: Clip, spans: tuple[Span, ...]) -> Waveform:
    """Return the outline of the loudness of a clip, with the words at their times."""
    samples = utterance.samples[: round(MOST_SECONDS * SAMPLE_RATE)]
    duration = max(len(samples) / SAMPLE_RATE, 1e-3)
    columns = np.array_split(samples, min(_WIDTH // 2, max(1, len(samples))))
    peak = max(float(np.abs(samples).max(initial=0.0)), 1e-6)
    middle = _HEIGHT / 2
    heights = [float(np.abs(c).max(initial=0.0)) / peak * (middle - 2) for c in columns]
    step = _WIDTH / len(heights)
    upper = [f"{i * step:.1f},{middle - max(h, 0.5):.1f}" for i, h in enumerate(heights)]
    lower = [f"{i * step:.1f},{middle + max(h, 0.5):.1f}" for i, h in enumerate(heights)]
    marks = tuple((s.start / duration * _WIDTH, (s.end - s.start) / duration * _WIDTH) for s in spans)
    words = []
    free = 0.0  # labels must not overlap, so labels without room are skipped
    for word in utterance.alignment.words:
        x = (word.start + word.end) / 2 / duration * _WIDTH
        half = 3.4 * len(word.label)
        if x - half >= free and x + half <= _WIDTH:
            cut = any(s.start <= (word.start + word.end) / 2 < s.end for s in spans)
            words.append(WordLabel(round(x, 1), word.label, cut))
            free = x + half + 3
    marked = ", ".join(f"{s.label} from {s.start:.2f} to {s.end:.2f} s" for s in spans)
    alt = f"Waveform of {duration:.1f} s" + (f"; cut: {marked}" if marked else "")
    return Waveform("M" + " L".join(upper + lower[::-1]) + " Z", marks, tuple(words), alt=alt)
