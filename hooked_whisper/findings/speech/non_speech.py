"""Sounds that are not speech, at the level of some clips: silence, noise, tones, and speech-shaped noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked_whisper.audio import TimeMap

KINDS = ("silence", "noise", "tones", "speech-shaped noise")
VARIANTS = 3  # number of sounds of each kind
SECONDS = 4.0  # about the length of a packaged sentence
QUIET = (0.0, 1e-3, 1e-2)  # levels of the three silences relative to speech: zero, -60 dB, -40 dB
SLOPES = (0.0, 1.0, 2.0)  # exponents by which power falls with frequency: white, pink, brown noise
ENVELOPE = 0.02  # seconds: length of the moving average that estimates a clip's envelope

Samples = Float[np.ndarray, "_"]  # clips differ in length


@dataclass(frozen=True, eq=False)
class NonSpeechSound:
    """16 kHz audio of one of :data:`KINDS`."""

    kind: str
    audio: Samples


def sounds_like(clips: Sequence[Samples], time: TimeMap, rng: np.random.Generator) -> tuple[NonSpeechSound, ...]:
    """Synthesize :data:`VARIANTS` sounds of each kind. Except for silence, their RMS is the median RMS of the clips."""
    if not clips:
        return ()
    rate = time.sample_rate
    n = round(min(SECONDS, time.duration) * rate)
    level = float(np.median([_rms(clip) for clip in clips]))
    seconds = np.arange(n) / rate
    tones = (
        sum(np.sin(2 * np.pi * f * seconds) for f in (220.0, 277.2, 329.6)),  # a chord
        np.sin(2 * np.pi * 200 * seconds * 10 ** (0.5 * seconds / seconds[-1])),  # a sweep
        np.sin(2 * np.pi * 440 * seconds) * (np.sin(2 * np.pi * 3 * seconds) > 0),  # beeps
    )
    models = [clips[i] for i in np.linspace(0, len(clips) - 1, VARIANTS).round().astype(int)]
    waves = {
        "silence": [quiet * level * _scaled(rng.standard_normal(n), 1.0) for quiet in QUIET],
        "noise": [_scaled(_colored(n, slope, rng), level) for slope in SLOPES],
        "tones": [_scaled(np.asarray(tone), level) for tone in tones],
        "speech-shaped noise": [_scaled(_shaped(clip[:n], rate, rng), level) for clip in models],
    }
    return tuple(NonSpeechSound(kind, wave.astype(np.float32)) for kind in KINDS for wave in waves[kind])


def _colored(n: int, slope: float, rng: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.maximum(np.arange(len(spectrum)), 20 * n / 16_000)  # flat below 20 Hz
    return np.fft.irfft(spectrum / frequency ** (slope / 2), n)


def _shaped(clip: Samples, rate: int, rng: np.random.Generator) -> Samples:
    """Return noise with the long-term spectrum and the envelope of a clip, which has its rhythm but no phones."""
    spectrum = np.abs(np.fft.rfft(clip))
    noise = np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(len(spectrum))), len(clip))
    width = round(ENVELOPE * rate)
    power = np.convolve(np.square(clip, dtype=float), np.full(width, 1 / width), "same")
    return noise * np.sqrt(np.maximum(power, 0))


def _rms(wave: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=float))))


def _scaled(wave: Samples, level: float) -> Samples:
    return wave * (level / max(_rms(wave), 1e-12))
