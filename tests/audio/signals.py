"""Sounds for the tests: something with silence, tones and noise in it, as speech has."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor


def babble(n: int, seed: int = 0, loudness: float = 0.3) -> Float[Tensor, "sample"]:
    """Tones that glide, in bursts, over faint noise; a fifth of it is digital silence."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / 16000
    tones = sum(np.sin(2 * np.pi * f * t + 3 * np.sin(2 * np.pi * 3 * t)) for f in rng.uniform(100, 4000, 4)) / 4
    wave = loudness * tones * (np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6)) > 0) + 1e-3 * rng.standard_normal(n)
    wave[n // 5 : 2 * n // 5] = 0
    return torch.from_numpy(wave.astype(np.float32))


def encoded(wave: np.ndarray, rate: int = 16000, format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format, subtype=subtype)
    return buffer.getvalue()
