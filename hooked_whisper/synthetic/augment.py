"""Augmentation of training clips: noise, gain, leading silence, other speeds, masked words, and clips without speech.

Words covered by noise stay in the transcript, which gives the decoder a reason to learn the grammar. Words replaced by
silence are removed from it. Clips with every word masked imitate wrong captions. Silent clips have an empty transcript.
Random draws use the caller's generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import soxr
from jaxtyping import Float

from hooked_whisper.protocols import Alignment, Interval

SAMPLE_RATE = 16_000
Audio = Float[np.ndarray, "_"]  # samples; augmentation changes the length


@dataclass(frozen=True)
class AugmentConfig:
    """Settings of the augmentation. Shares are probabilities and times are in seconds. The signal-to-noise ratio and
    the deviation of the equalizer are in dB."""

    clean: float = 0.4
    snr: tuple[float, float] = (0.0, 25.0)
    gain: tuple[float, float] = (0.15, 1.3)
    lead: float = 1.2
    speed: tuple[float, float] = (0.88, 1.13)
    speed_share: float = 0.6
    tilt: float = 0.0
    equaliser: float = 0.0
    mask_word: float = 0.08
    drop_silenced: float = 0.0  # share of the words replaced by silence that are removed from the transcript
    mask_all: float = 0.02
    empty: float = 0.03


DEFAULTS = AugmentConfig()


@dataclass(frozen=True)
class SpeechExample:
    """One row of a batch. ``alignment.text`` is the target, which is empty for a clip without speech."""

    audio: Audio
    alignment: Alignment
    audible: bool = True  # False: every word is masked, so the audio does not contain the transcript


def noise(rng: np.random.Generator, count: int, kind: str, babble: Callable[[int], Audio] | None = None) -> Audio:
    """Return noise of unit power: ``white``, ``pink`` (1/f power) or ``babble`` (speech from the function
    ``babble``)."""
    if kind == "babble" and babble is not None:
        sound = babble(count)
    else:
        sound = rng.standard_normal(count, dtype=np.float32)
        if kind == "pink":
            spectrum = np.fft.rfft(sound)
            spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
            sound = np.fft.irfft(spectrum, count)
    power = float(np.mean(sound**2))
    return (sound / np.sqrt(power + 1e-12)).astype(np.float32)


def change_speed(audio: Audio, alignment: Alignment, factor: float) -> tuple[Audio, Alignment]:
    """Return the clip played ``factor`` times faster, which scales tempo, pitch, formants and the intervals."""
    faster = soxr.resample(audio, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ").astype(np.float32)
    duration = len(faster) / SAMPLE_RATE
    scale = duration / alignment.duration
    moved = replace(
        alignment,
        duration=duration,
        words=tuple(w.scaled(scale) for w in alignment.words),
        phones=tuple(p.scaled(scale) for p in alignment.phones),
    )
    return faster, moved


def equalize(audio: Audio, rng: np.random.Generator, deviation: float) -> Audio:
    """Apply a random smooth frequency response, as of another voice, microphone or bandwidth. The power is
    unchanged."""
    knots = np.array([0, 300, 1000, 2000, 3500, 5500, 8000])
    gains = rng.normal(0, deviation, len(knots))
    if rng.random() < 0.4:  # remove everything above some frequency
        gains[knots > rng.uniform(3000, 8000)] -= 40
    spectrum = np.fft.rfft(audio)
    response = np.interp(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE), knots, gains)
    shaped = np.fft.irfft(spectrum * 10 ** (response / 20), len(audio))
    power = np.sqrt(np.mean(audio**2) / (np.mean(shaped**2) + 1e-12))
    return (shaped * power).astype(np.float32)


def _mask(audio: Audio, word: Interval, rng: np.random.Generator, silence: bool) -> None:
    start, end = round(word.start * SAMPLE_RATE), min(round(word.end * SAMPLE_RATE), len(audio))
    level = float(np.sqrt(np.mean(audio**2)))
    audio[start:end] = 0
    if not silence:
        audio[start:end] = level * rng.standard_normal(end - start, dtype=np.float32)


def _mask_words(audio: Audio, alignment: Alignment, rng: np.random.Generator, config: AugmentConfig) -> Alignment:
    """Mask some words of ``audio`` in place, and return the alignment without the words that are removed."""
    remaining = []
    for word in alignment.words:
        masked, silence = rng.random() < config.mask_word, rng.random() < 0.5
        if masked:
            _mask(audio, word, rng, silence)
        if not (masked and silence and rng.random() < config.drop_silenced):
            remaining.append(word)
    return replace(alignment, text=" ".join(word.label for word in remaining), words=tuple(remaining))


def augment(
    audio: Audio,
    alignment: Alignment,
    rng: np.random.Generator,
    babble: Callable[[int], Audio] | None = None,
    config: AugmentConfig = DEFAULTS,
    longest_lead: float | None = None,
) -> SpeechExample:
    """Return a training example made from a clean utterance. ``longest_lead`` (in seconds) overrides
    ``config.lead``."""
    draw = rng.random()
    if draw < config.empty:
        silent = Alignment(alignment.utterance, alignment.speaker, "", alignment.duration)
        sound = np.zeros(len(audio), np.float32)
        if rng.random() < 0.6:
            kind = str(rng.choice(["white", "pink"]))
            sound += np.float32(10 ** rng.uniform(-3.5, -0.7)) * noise(rng, len(audio), kind)
        return SpeechExample(sound, silent)
    audible = draw >= config.empty + config.mask_all
    if rng.random() < config.speed_share:
        audio, alignment = change_speed(audio, alignment, float(rng.uniform(*config.speed)))
    audio = audio.copy()
    if audible:
        alignment = _mask_words(audio, alignment, rng, config)
    else:
        silence = rng.random() < 0.5
        for word in alignment.words:
            _mask(audio, word, rng, silence)
    if rng.random() < 0.7:
        lead = rng.uniform(0, config.lead if longest_lead is None else longest_lead)
        samples = round(lead * SAMPLE_RATE)
        audio = np.concatenate([np.zeros(samples, np.float32), audio])
        alignment = alignment.shifted(samples / SAMPLE_RATE)
    if config.equaliser and rng.random() < 0.7:
        audio = equalize(audio, rng, config.equaliser)
    if config.tilt:  # another microphone
        audio[1:] -= np.float32(rng.uniform(-config.tilt, config.tilt)) * audio[:-1]
    audio *= np.float32(rng.uniform(*config.gain))
    if rng.random() >= config.clean:
        kind = str(rng.choice(["white", "pink", "babble"]))
        snr = rng.uniform(*config.snr) + (6 if kind == "babble" else 0)
        level = np.sqrt(np.mean(audio**2)) * 10 ** (-snr / 20)
        audio = audio + np.float32(level) * noise(rng, len(audio), kind, babble)
    if rng.random() < 0.3:  # a recording is rarely digitally silent
        audio = audio + np.float32(10 ** rng.uniform(-5, -3)) * rng.standard_normal(len(audio), dtype=np.float32)
    return SpeechExample(audio, alignment, audible)
