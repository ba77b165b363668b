"""From synthesized samples to what ships: silence trimmed, 16 kHz, one loudness, Opus; times moved along."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.neural.build import HOP, Synthesis, quiet_hops
from hooked_whisper.neural.kokoro import RATE
from hooked_whisper.neural.times import Times, find_times
from hooked_whisper.protocols import Interval

MARGIN_S = 0.15  # of silence kept before the first and after the last phone
LEVEL_DB, PEAK = -23.0, 0.9  # of what is not silent, relative to full scale; no sample beyond the peak
KBPS = 24
_RATES_KBPS = (6, 256)  # what libsndfile's compression levels 1 and 0 stand for


@dataclass(frozen=True, eq=False)
class Finished:
    """A recording as it ships, before the codec: 16 kHz samples, and times in seconds on them."""

    audio: Float[np.ndarray, "sample"]
    times: Times

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def finish(synthesis: Synthesis, audio: Float[np.ndarray, "sample"]) -> Finished:
    """Trim a recording at 24 kHz, resample it to 16 kHz, and bring it to the common loudness."""
    times = find_times(synthesis, audio)
    first = max(0, round((times.words[0].start - MARGIN_S) * RATE))
    first -= first % 3  # a whole sample at 16 kHz
    last = min(len(audio), round((times.words[-1].end + MARGIN_S) * RATE))
    part = soxr.resample(audio[first:last], RATE, SAMPLE_RATE, "VHQ")
    samples = _levelled(part, quiet_hops(audio[first:last]))
    shift, duration = first / RATE, len(samples) / SAMPLE_RATE
    moved = (tuple(_moved(i, shift, duration) for i in tier) for tier in (times.words, times.phones))
    words, phones = (tuple(interval for interval in tier if interval.duration > 0) for tier in moved)
    return Finished(samples, Times(words, phones))


def encode(audio: Float[np.ndarray, "sample"], kbps: int = KBPS) -> bytes:
    """16 kHz samples as Ogg Opus of about this rate. Decoding gives the same number of samples, aligned with the input.

    Raises:
        AudioError: ``kbps`` is not between 6 and 256.
    """
    low, high = _RATES_KBPS
    if not low <= kbps <= high:
        raise AudioError(f"Opus takes {low} to {high} kbit/s, not {kbps}")
    buffer = io.BytesIO()
    level = (high - kbps) / (high - low)
    soundfile.write(buffer, audio, SAMPLE_RATE, "OPUS", format="OGG", compression_level=level)
    return _same_serial(buffer.getvalue())


def decode(content: bytes) -> Float[np.ndarray, "sample"]:
    """Inverse of :func:`encode`, but for what the codec loses."""
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def lag(a: Float[np.ndarray, "sample"], b: Float[np.ndarray, "sample"], reach: int = 160) -> int:
    """By how many samples ``b`` comes after ``a``: where their cross-correlation is highest within ``reach``."""
    n = min(len(a), len(b))
    spectrum = np.fft.rfft(b[:n], 2 * n) * np.conj(np.fft.rfft(a[:n], 2 * n))
    correlation = np.fft.irfft(spectrum)
    shifts = np.arange(-reach, reach + 1)
    return int(shifts[np.argmax(correlation[shifts])])


def _same_serial(content: bytes) -> bytes:
    """An Ogg file with the stream number 1 in place of libsndfile's random one, so that equal samples give equal files.

    A page is a head of 27 bytes (number at 14, checksum at 22, count of segments at 26), the segments' sizes, the data.
    """
    pages, position = [], 0
    while position < len(content):
        sizes = content[position + 27 : position + 27 + content[position + 26]]
        page = bytearray(content[position : position + 27 + len(sizes) + sum(sizes)])
        page[14:18], page[22:26] = (1).to_bytes(4, "little"), bytes(4)
        page[22:26] = _checksum(bytes(page)).to_bytes(4, "little")
        pages.append(bytes(page))
        position += len(page)
    return b"".join(pages)


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: polynomial 0x04C11DB7, not reflected, no inversion (RFC 3533)."""
    table = _checksum_table()
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return crc


@cache
def _checksum_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return tuple(table)


def _levelled(samples: Float[np.ndarray, "sample"], quiet: np.ndarray) -> Float[np.ndarray, "sample"]:
    """Samples scaled so that what is not silent has the common level, without clipping."""
    sounding = np.repeat(~quiet, HOP * SAMPLE_RATE // RATE)[: len(samples)]
    level = float(np.sqrt(np.mean(samples[: len(sounding)][sounding].astype(np.float64) ** 2)))
    gain = min(10 ** (LEVEL_DB / 20) / level, PEAK / float(np.abs(samples).max()))
    return (samples * gain).astype(np.float32)


def _moved(interval: Interval, shift: float, duration: float) -> Interval:
    start, end = (round(min(max(0.0, time - shift), duration), 4) for time in (interval.start, interval.end))
    return Interval(start, min(max(start, end), duration), interval.label)
