"""Noise-vocoded speech: keep the envelope of each frequency band, replace its fine structure by noise.

Source: Shannon, Zeng, Kamath, Wygonski and Ekelid 1995, "Speech recognition with primarily temporal cues", Science 270.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.signal import butter, hilbert, sosfiltfilt

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions.record import Audio, Corruption, as_audio, sample_range, whole_clip
from hooked_whisper.patching.corruptions.splice import cross_fade
from hooked_whisper.protocols import Interval

LOWEST_HZ, HIGHEST_HZ = 100.0, 7000.0
ENVELOPE_HZ = 160.0  # of the low-pass on each band's envelope
BAND_ORDER, ENVELOPE_ORDER = 3, 2


def vocode(audio: Audio, n_bands: int = 8, span: Interval | None = None, seed: int = 0) -> Corruption:
    """Replace speech by white noise with its envelopes in ``n_bands`` bands of equal ratio from 100 Hz to 7 kHz.

    This keeps manner of articulation and rhythm, and removes voice, pitch and, with few bands, place of articulation.

    span: default: the whole clip.

    Raises:
        AudioError: ``n_bands`` is not 1 to 32, the span is outside the clip, or the clip is shorter than 50 ms.
    """
    if not 1 <= n_bands <= 32:
        raise AudioError(f"n_bands must be 1 to 32, got {n_bands}")
    clean = as_audio(audio)
    if len(clean) < SAMPLE_RATE // 20:
        raise AudioError(f"a vocoder needs 50 ms of audio, got {len(clean)} samples")
    changed = whole_clip(len(clean)) if span is None else span
    samples = sample_range(changed, len(clean))
    vocoded = _vocoded(clean.astype(np.float64), n_bands, np.random.default_rng(seed)).astype(np.float32)
    corrupt = clean.copy()
    corrupt[samples] = vocoded[samples] if span is None else cross_fade(clean[samples], vocoded[samples])
    return Corruption("vocoder", clean, corrupt, (changed,), {"n_bands": n_bands, "seed": seed})


def _vocoded(clean: np.ndarray, n_bands: int, rng: np.random.Generator) -> np.ndarray:
    edges = np.geomspace(LOWEST_HZ, HIGHEST_HZ, n_bands + 1)
    smooth = butter(ENVELOPE_ORDER, ENVELOPE_HZ, fs=SAMPLE_RATE, output="sos")
    noise = rng.standard_normal(len(clean))
    out = np.zeros_like(clean)
    for low, high in pairwise(edges):
        band = butter(BAND_ORDER, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
        band_signal = sosfiltfilt(band, clean)
        envelope = np.maximum(sosfiltfilt(smooth, np.abs(hilbert(band_signal))), 0)
        shaped = sosfiltfilt(band, noise * envelope)
        # match the power: how much noise passes the filters depends on their width
        power = np.mean(shaped**2)
        out += shaped * np.sqrt(np.mean(band_signal**2) / power) if power > 0 else 0
    return out
