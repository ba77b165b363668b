"""The amplified moment, made from a clip's MP3."""

from __future__ import annotations

import io

import soundfile

from hooked_whisper.audio import SAMPLE_RATE, clip_around, to_mp3_bytes

_MOMENT_S = 1.0


def moment_mp3(clip: bytes, center_s: float) -> bytes:
    """One second of a clip's MP3 with the middle amplified, see :func:`hooked_whisper.audio.clip_around`.

    Decoding an MP3 keeps the position of samples: libsndfile writes and compensates the encoder's delay.
    """
    samples, _ = soundfile.read(io.BytesIO(clip), dtype="float32")
    return to_mp3_bytes(clip_around(samples, min(center_s, len(samples) / SAMPLE_RATE), _MOMENT_S).limited)
