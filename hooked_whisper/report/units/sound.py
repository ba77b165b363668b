"""The amplified moment, made from a clip's MP3."""

from __future__ import annotations

import io

import soundfile

from hooked_whisper.audio import SAMPLE_RATE, clip_around, to_mp3_bytes

_MOMENT_S = 1.0


def moment_mp3(clip: bytes, centre_s: float) -> bytes:
    """One second of a clip's MP3 with the middle amplified, see :func:`hooked_whisper.audio.clip_around`.

    A decoded MP3 has its samples where they were: libsndfile writes and heeds the encoder's delay.
    """
    samples, _ = soundfile.read(io.BytesIO(clip), dtype="float32")
    return to_mp3_bytes(clip_around(samples, min(centre_s, len(samples) / SAMPLE_RATE), _MOMENT_S).limited)
