"""Frequencies along the mel bands of a spectrogram."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HIGHEST_HZ = 8000.0  # half the sample rate
_TICKS_HZ = (250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)


@dataclass(frozen=True)
class FrequencyTick:
    """A mark on the frequency axis. percent: height above the lower edge of the picture."""

    percent: float
    text: str


def band_of(hertz: float, n_mels: int) -> float:
    """Return the band, as a fraction of bands from 0, whose center has this frequency.

    Whisper's bands are evenly spaced on Slaney's mel scale: linear up to 1 kHz and logarithmic above.
    """
    return _mel(hertz) / _mel(_HIGHEST_HZ) * (n_mels + 1) - 1


def frequency_ticks(n_mels: int) -> tuple[FrequencyTick, ...]:
    """Return the marks of a frequency axis beside a spectrogram, in kHz, at the height of their bands."""
    ticks = []
    for hertz in _TICKS_HZ:
        percent = 100 * (band_of(hertz, n_mels) + 0.5) / n_mels
        ticks.append(FrequencyTick(round(min(percent, 100.0), 2), f"{hertz / 1000:g}"))
    return tuple(ticks)


def _mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)
