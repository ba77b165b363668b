"""Small audio files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def write_noise(path: Path, seconds: float = 0.1, rate: int = 16_000, seed: int = 0, **more: str) -> Path:
    """Faint noise of a seed; the ending says which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.1, 0.1, round(seconds * rate))
    soundfile.write(path, samples, rate, **more)
    return path
