"""The vocoder keeps the power and envelope of each band, but not the waveform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions import vocode
from hooked_whisper.protocols import Interval
from hooked_whisper.synthetic import SyntheticCorpus


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return SyntheticCorpus.default().clips()[0].samples


def test_power_and_envelope_stay_but_not_the_waveform(clip: np.ndarray) -> None:
    corruption = vocode(clip, n_bands=8)
    assert corruption.corrupt.dtype == np.float32 and len(corruption.corrupt) == len(clip)
    band = butter(4, (700, 1500), "bandpass", fs=16_000, output="sos")
    before, after = (sosfiltfilt(band, x.astype(float)) for x in (corruption.clean, corruption.corrupt))
    assert 0.5 < np.mean(after**2) / np.mean(before**2) < 2
    frames = [np.sqrt(np.mean(x[: len(x) // 800 * 800].reshape(-1, 800) ** 2, 1)) for x in (before, after)]
    assert np.corrcoef(*frames)[0, 1] > 0.8
    assert abs(np.corrcoef(corruption.clean, corruption.corrupt)[0, 1]) < 0.1


def test_span_and_seed(clip: np.ndarray) -> None:
    span = Interval(0.3, 0.6, "word")
    corruption = vocode(clip, span=span)
    assert np.array_equal(corruption.clean[: round(0.3 * 16_000)], corruption.corrupt[: round(0.3 * 16_000)])
    assert np.array_equal(corruption.corrupt, vocode(clip, span=span).corrupt)
    assert not np.array_equal(corruption.corrupt, vocode(clip, span=span, seed=1).corrupt)
    silent = vocode(np.zeros(8000, np.float32))
    assert not silent.corrupt.any()


def test_bands_and_length_are_checked(clip: np.ndarray) -> None:
    with pytest.raises(AudioError, match="1 to 32, got 0"):
        vocode(clip, n_bands=0)
    with pytest.raises(AudioError, match="50 ms"):
        vocode(clip[:100])
