"""Turn synthesized samples into packaged audio: trim silence, resample to 16 kHz, set the loudness, encode as Opus."""

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

MARGIN_S = 0.15  # silence kept before the first and after the last phone
LEVEL_DB, PEAK = -23.0, 0.9  # level of the sounding parts relative to full scale, and the largest sample
KBPS = 24
_RATES_KBPS = (6, 256)  # bit rates of libsndfile's compression levels 1 and 0


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished recording before encoding: 16 kHz samples and times in seconds."""

    audio: Float[np.ndarray, "sample"]
    times: Times

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE


def finish(synthesis: Synthesis, audio: Float[np.ndarray, "sample"]) -> Finished:
    """Trim a recording at 24 kHz, resample it to 16 kHz, and set the common loudness."""
    times = find_times(synthesis, audio)
    first = max(0, round((times.words[0].start - MARGIN_S) * RATE))
    first -= first % 3  # a whole sample at 16 kHz
    last = min(len(audio), round((times.words[-1].end + MARGIN_S) * RATE))
    part = soxr.resample(audio[first:last], RATE, SAMPLE_RATE, "VHQ")
    samples = _leveled(part, quiet_hops(audio[first:last]))
    shift, duration = first / RATE, len(samples) / SAMPLE_RATE
    moved = (tuple(_moved(i, shift, duration) for i in tier) for tier in (times.words, times.phones))
    words, phones = (tuple(interval for interval in tier if interval.duration > 0) for tier in moved)
    return Finished(samples, Times(words, phones))


def encode(audio: Float[np.ndarray, "sample"], kbps: int = KBPS) -> bytes:
    """Encode 16 kHz samples as Ogg Opus with about this bit rate. Decoding gives the same number of samples, aligned.

    Raises:
        AudioError: if ``kbps`` is not between 6 and 256.
    """
    low, high = _RATES_KBPS
    if not low <= kbps <= high:
        raise AudioError(f"Opus takes {low} to {high} kbit/s, not {kbps}")
    buffer = io.BytesIO()
    level = (high - kbps) / (high - low)
    soundfile.write(buffer, audio, SAMPLE_RATE, "OPUS", format="OGG", compression_level=level)
    return _same_serial(buffer.getvalue())


def decode(content: bytes) -> Float[np.ndarray, "sample"]:
    """Decode the output of :func:`encode`."""
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def lag(a: Float[np.ndarray, "sample"], b: Float[np.ndarray, "sample"], reach: int = 160) -> int:
    """Return the lag of ``b`` behind ``a`` in samples: the maximum of their cross-correlation within ``reach``."""
    n = min(len(a), len(b))
    spectrum = np.fft.rfft(b[:n], 2 * n) * np.conj(np.fft.rfft(a[:n], 2 * n))
    correlation = np.fft.irfft(spectrum)
    shifts = np.arange(-reach, reach + 1)
    return int(shifts[np.argmax(correlation[shifts])])


def _same_serial(content: bytes) -> bytes:
    """Set the stream number of an Ogg file, which libsndfile draws at random, to 1, so equal samples give equal files.

    A page has a header of 27 bytes (stream number at 14, checksum at 22, number of segments at 26), the sizes of the
    segments, and the data.
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
    """Return Ogg's CRC-32: polynomial 0x04C11DB7, not reflected, no inversion (RFC 3533)."""
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


def _leveled(samples: Float[np.ndarray, "sample"], quiet: np.ndarray) -> Float[np.ndarray, "sample"]:
    """Scale the samples so that the sounding parts have the common level, without clipping."""
    sounding = np.repeat(~quiet, HOP * SAMPLE_RATE // RATE)[: len(samples)]
    level = float(np.sqrt(np.mean(samples[: len(sounding)][sounding].astype(np.float64) ** 2)))
    gain = min(10 ** (LEVEL_DB / 20) / level, PEAK / float(np.abs(samples).max()))
    return (samples * gain).astype(np.float32)


def _moved(interval: Interval, shift: float, duration: float) -> Interval:
    start, end = (round(min(max(0.0, time - shift), duration), 4) for time in (interval.start, interval.end))
    return Interval(start, min(max(start, end), duration), interval.label)
