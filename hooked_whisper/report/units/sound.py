"""Sounds of the site: MP3 small enough for hundreds of thousands, and the amplified moment made from one."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from jaxtyping import Float

from hooked_whisper.audio import SAMPLE_RATE, clip_around
from hooked_whisper.audio.listen import PEAK

_COMPRESSION = 0.7  # of libsndfile's 0 to 1: 12 kB for 3 s of speech, where its default (to_mp3_bytes) takes 19
_MOMENT_S = 1.0
_SAFE = 0.9  # of full scale, where the codec is known to overshoot: it does not overshoot the same at another level


def small_mp3(samples: Float[np.ndarray, "sample"]) -> bytes:
    """MP3 of 16 kHz samples. What would be louder than full scale, before or after the codec, is scaled down as a
    whole, so that it never clips: an MP3 overshoots, by 6 % in speech, by more in tones and noise."""
    peak = float(np.abs(samples).max())
    level = min(1.0, PEAK / peak) if peak > 0 else 1.0
    content = _encode(samples * level)
    while (heard := float(np.abs(_decode(content)).max())) > 1:
        level *= _SAFE / heard
        content = _encode(samples * level)
    return content


def moment_mp3(clip: bytes, centre_s: float) -> bytes:
    """One second of a clip's MP3 with the middle amplified, see :func:`hooked_whisper.audio.clip_around`.

    A decoded MP3 has its samples where they were: libsndfile writes and heeds the encoder's delay.
    """
    samples = _decode(clip)
    limited = clip_around(samples, min(centre_s, len(samples) / SAMPLE_RATE), _MOMENT_S).limited
    return small_mp3(limited.numpy())


def _encode(samples: Float[np.ndarray, "sample"]) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=_COMPRESSION)
    return stream.getvalue()


def _decode(content: bytes) -> Float[np.ndarray, "sample"]:
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    return samples
