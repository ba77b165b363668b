"""Decode containers that libsndfile does not support (m4a, mp4, webm, aac, wma, amr) with PyAV."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from hooked_whisper.audio.pieces import Seekable, Spliced, read_at, size_of, truncated
from hooked_whisper.errors import AudioError, MissingExtraError

_ROUNDING_S = 0.25  # a container's duration may include an encoder's delay or other tracks
_MICROSECONDS = 1e6


def read_with_av(stream: Seekable, name: str) -> tuple[Float32[np.ndarray, "sample"], int]:
    """Decode all samples, including those of joined MP4 files, and average the channels.

    Raises:
        AudioError: the file has no audio track, is broken, or is shorter than its container says.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            f"{name} is in a format (such as m4a, mp4, webm) that needs PyAV: pip install hooked-whisper[av]"
        ) from None
    parts = [_decode(part, name) for part in _joined(stream)]
    rates = {rate for _, rate in parts}
    if len(rates) > 1:
        raise AudioError(f"{name} is several files joined, at {sorted(rates)} Hz: convert it")
    return np.concatenate([samples for samples, _ in parts]), rates.pop()


def _decode(stream: Seekable, name: str) -> tuple[Float32[np.ndarray, "sample"], int]:
    import av

    try:
        with av.open(stream) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no audio track: give a file that has one")
            track = container.streams.audio[0]
            rate = track.codec_context.sample_rate
            to_planes = av.AudioResampler(format="fltp", rate=rate)  # [channel, sample] at the same rate
            planes = [
                plane.to_ndarray().mean(axis=0)
                for frame in container.decode(audio=0)
                for plane in to_planes.resample(frame)
            ]
            if track.duration is not None and track.time_base is not None:
                promised = float(track.duration * track.time_base)
            else:
                promised = (container.duration or 0) / _MICROSECONDS if len(container.streams) == 1 else 0.0
    except av.error.FFmpegError as error:
        raise AudioError(f"{name} is broken or truncated: fetch or convert it again") from error
    samples = np.concatenate(planes) if planes else np.zeros(0, np.float32)
    if promised > len(samples) / rate + _ROUNDING_S and not _is_estimate(stream):
        raise truncated(name, len(samples) / rate, promised - len(samples) / rate)
    return samples, rate


def _is_estimate(stream: Seekable) -> bool:
    """Whether the duration is PyAV's guess from the bit rate of a bare stream (aac, amr)."""
    return read_at(stream, 0, 2) in (b"\xff\xf1", b"\xff\xf9", b"#!")


def _joined(stream: Seekable) -> list[Seekable]:
    """Split joined MP4 files, each of which begins with an ``ftyp`` box."""
    size, offset, starts = size_of(stream), 0, []
    while offset + 8 <= size:
        head = read_at(stream, offset, 16)
        length = int.from_bytes(head[:4])
        if head[4:8] == b"ftyp":
            starts.append(offset)
        if length == 1:
            length = int.from_bytes(head[8:16])
        if length < 8 or not starts:
            break
        offset += length
    stream.seek(0)
    if len(starts) < 2:
        return [stream]
    return [Spliced(stream, [(a, b)]) for a, b in zip(starts, [*starts[1:], size], strict=True)]
