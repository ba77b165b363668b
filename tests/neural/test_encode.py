"""What ships against what was synthesized: samples at their places, times moved along, files that do not vary."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.neural.encode import LEVEL_DB, MARGIN_S, PEAK, _checksum, decode, encode, finish, lag
from tests.neural.speech import synthesis


def speechlike(n: int) -> np.ndarray:
    """Pulses through a decaying filter, in bursts: something that the codec has no trouble with, and no period of 1."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=n)
    kernel = np.exp(-np.arange(40) / 8) * np.cos(np.arange(40) / 3)
    bursts = 0.5 + 0.5 * np.sin(np.arange(n) / 900)
    return (0.05 * np.convolve(noise, kernel, "same") * bursts).astype(np.float32)


@pytest.mark.parametrize("n", [3_333, 16_000, 40_001])
def test_the_codec_keeps_length_and_place(n: int) -> None:
    samples = speechlike(n)
    coded = decode(encode(samples))
    assert len(coded) == n and lag(samples, coded) == 0
    assert encode(samples) == encode(samples)


def test_a_lag_is_found() -> None:
    samples = speechlike(8_000)
    assert lag(samples[10:], samples[:-10]) == 10
    assert lag(samples[:-7], samples[7:]) == -7


def test_the_checksum_is_that_of_ogg() -> None:
    content = encode(speechlike(4_000))
    assert content[:4] == b"OggS" and content[14:18] == b"\1\0\0\0"
    end = content.index(b"OggS", 4)
    page = bytearray(content[:end])
    stored, page[22:26] = bytes(page[22:26]), bytes(4)
    assert _checksum(bytes(page)).to_bytes(4, "little") == stored


def test_a_rate_that_opus_lacks_is_refused() -> None:
    with pytest.raises(AudioError, match="500"):
        encode(speechlike(1_000), 500)


def test_silence_is_trimmed_and_the_level_is_common() -> None:
    for frames in (4, 6):
        recording, audio = synthesis("mama tata.", frames)
        finished = finish(recording, 0.3 * audio)
        assert finished.times.words[0].start == pytest.approx(MARGIN_S, abs=2e-4)
        assert finished.duration - finished.times.words[-1].end == pytest.approx(MARGIN_S, abs=2e-3)
        assert finished.times.phones[-1].end == pytest.approx(finished.duration, abs=1e-4)
        spoken = finished.audio[
            round((MARGIN_S + 0.05) * SAMPLE_RATE) : round((finished.duration - MARGIN_S - 0.05) * SAMPLE_RATE)
        ]
        assert 10 * np.log10(np.mean(spoken**2)) == pytest.approx(LEVEL_DB, abs=1.0)
        assert np.abs(finished.audio).max() <= PEAK
