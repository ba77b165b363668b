"""Room sound and noise for the training speech."""

from __future__ import annotations

from typing import get_args

import numpy as np
import soxr
from jaxtyping import Float
from scipy.signal import fftconvolve

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import check_option
from hooked_whisper.synthetic.augment import noise
from sae_lens_audio.speech.plan import Sound

REVERBERATION_S = (0.15, 0.7)  # time in which the sound of the room decays by 60 dB
DIRECT_DB = (0.0, 12.0)  # power of the direct sound relative to the reverberation
SNR_DB = (5.0, 25.0)
_DECAY = np.log(1000.0)  # 60 dB, for an amplitude


def with_sound(audio: Float[np.ndarray, "sample"], sound: Sound, seed: int) -> Float[np.ndarray, "sample"]:
    """Return 16 kHz samples with room sound or noise. The number of samples, and the level of the result, stay.

    A room is an impulse and a tail of noise that decays exponentially. Noise is white or pink.
    """
    check_option("sound", sound, get_args(Sound))
    if sound == "clean":
        return audio
    rng = np.random.default_rng(seed)
    if sound == "room":
        changed = fftconvolve(audio, _room(rng))[: len(audio)]
    else:
        kind = str(rng.choice(["white", "pink"]))
        level = _rms(audio) * 10 ** (-rng.uniform(*SNR_DB) / 20)
        changed = audio + level * noise(rng, len(audio), kind)
    return (changed * (_rms(audio) / _rms(changed))).astype(np.float32)


def to_16_khz(audio: Float[np.ndarray, "sample"], rate: int) -> Float[np.ndarray, "_"]:
    return audio if rate == SAMPLE_RATE else soxr.resample(audio, rate, SAMPLE_RATE, "VHQ").astype(np.float32)


def _room(rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    decay_s = rng.uniform(*REVERBERATION_S)
    times = np.arange(round(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * np.exp(-_DECAY * times / decay_s)
    tail *= 10 ** (-rng.uniform(*DIRECT_DB) / 20) / np.sqrt((tail**2).sum())
    tail[0] += 1.0
    return tail


def _rms(audio: Float[np.ndarray, "_"]) -> float:
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2) + 1e-12))
