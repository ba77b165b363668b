"""Excerpts for listening, and audio output as files, MP3 or WAV bytes, and data URIs."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.audio.mel import SAMPLE_RATE, Number
from hooked_whisper.errors import AudioError

_COMPRESSION = 0.7  # libsndfile's setting for MP3, 0 to 1: two thirds of the default size
_SAFE = 0.9  # of full scale, used if the codec overshoots
PEAK = 0.99  # full scale with a margin, since lossy codecs overshoot
_FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"), ".mp3": ("MP3", None)}

Samples = Float[Tensor, "sample"] | Float[np.ndarray, "sample"]


class ListeningClip(NamedTuple):
    """An excerpt with its center amplified. Unpacks to ``(clip, limited)``."""

    clip: Float[Tensor, "sample"]
    """Amplified, possibly beyond full scale: for measurements, not for 16-bit files."""
    limited: Float[Tensor, "sample"]
    """The same, scaled so that its peak is at most 0.99: for listening."""


@renamed_arguments(centre_s="center_s")
def clip_around(
    audio: Samples,
    center_s: Number,
    context_s: Number = 1.0,
    gain: Number = 10.0,
    width_s: Number = 0.0625,
    fade_s: Number = 0.005,
) -> ListeningClip:
    """Cut out the audio around a time, such as a neuron's strongest activation, and amplify its center.

    Args:
        audio: 16 kHz samples.
        center_s: the time in seconds.
        context_s: length of the clip in seconds; outside the audio it is padded with zeros.
        gain: factor for the middle ``width_s`` seconds. The defaults, 10 for 1,000 samples, are those of the published
            clips.
        fade_s: length in seconds of the raised-cosine ramps that avoid clicks, on both sides of the amplified part and
            at both ends of the clip.

    Raises:
        AudioError: the center is outside the audio, or the clip is too short for ``width_s`` and the ramps.
    """
    samples = torch.as_tensor(audio).detach().float().cpu()
    n, width, fade = (round(s * SAMPLE_RATE) for s in (context_s, width_s, fade_s))
    if not 0 <= center_s <= len(samples) / SAMPLE_RATE:
        raise AudioError(f"center {center_s} s is outside the audio of {len(samples) / SAMPLE_RATE:g} s")
    if width < 1 or fade < 0 or width + 2 * fade > n:
        raise AudioError(
            f"a clip of {context_s} s cannot hold {width_s} s of gain with fades of {fade_s} s: take a longer context_s"
        )
    start = round(center_s * SAMPLE_RATE) - n // 2
    clip = torch.zeros(n)
    begin, end = max(0, start), min(len(samples), start + n)
    clip[begin - start : end - start] = samples[begin:end]

    ramp = (1 - torch.cos(torch.pi * (torch.arange(fade) + 0.5) / max(fade, 1))) / 2  # 0 to 1
    bump = torch.cat([ramp, torch.ones(width), ramp.flip(0)])
    envelope = torch.ones(n)
    left = (n - len(bump)) // 2
    envelope[left : left + len(bump)] += (gain - 1) * bump
    envelope[:fade] *= ramp
    envelope[n - fade :] *= ramp.flip(0)
    clip = clip * envelope
    return ListeningClip(clip, _limited(clip))


def to_mp3_bytes(audio: Samples, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode an MP3 for listening, about 4 kB per second of speech.

    Audio that exceeds full scale before or after encoding is scaled down: MP3 overshoots by 6 % in speech, more in
    tones.
    """
    samples = _limited(_checked(audio)).numpy()
    content = _encode(samples, sample_rate, "MP3", None)
    while (heard := float(np.abs(soundfile.read(io.BytesIO(content))[0]).max())) > 1:
        samples = samples * np.float32(_SAFE / heard)  # the overshoot depends on the level: encode again
        content = _encode(samples, sample_rate, "MP3", None)
    return content


def to_wav_bytes(audio: Samples, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encode a 16-bit WAV, which every browser plays; samples beyond full scale are clipped."""
    return _encode(_checked(audio).numpy(), sample_rate, "WAV", "PCM_16")


def to_data_uri(audio: Samples, sample_rate: int = SAMPLE_RATE) -> str:
    """Return an MP3 as ``data:audio/mpeg;base64,...``, for the ``src`` of an ``<audio>`` element."""
    return "data:audio/mpeg;base64," + base64.b64encode(to_mp3_bytes(audio, sample_rate)).decode("ascii")


def save_audio(path: str | os.PathLike[str], audio: Samples, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono audio atomically: an interrupted write leaves no partial file.

    The suffix selects the format: ``.wav`` (32-bit float, lossless and never clipped), ``.flac`` (16 bit), ``.ogg``,
    ``.mp3``.

    Raises:
        AudioError: the suffix is not supported, there are no samples, or they have NaN or infinite values or would be
            clipped.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise AudioError(f"cannot write {path.name!r}: the suffix must be one of {', '.join(_FORMATS)}")
    file_format, subtype = _FORMATS[path.suffix.lower()]
    samples = _checked(audio).numpy()
    if file_format != "WAV" and (peak := np.abs(samples).max()) > 1:
        raise AudioError(f"{path.name!r} would clip: the peak is {peak:.3g}, full scale is 1; divide it, or write .wav")
    content = _encode(samples, sample_rate, file_format, subtype)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # in the same folder, for an atomic rename
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(audio: Samples) -> Float[Tensor, "sample"]:
    samples = torch.as_tensor(audio).detach().float().cpu()
    if samples.numel() == 0:
        raise AudioError("the audio has no samples: there is nothing to write")
    if not torch.isfinite(samples).all():
        raise AudioError(
            "the samples have NaN or infinite values: repair them before writing, for example with numpy.nan_to_num"
        )
    return samples


def _limited(samples: Float[Tensor, "sample"]) -> Float[Tensor, "sample"]:
    # One factor for the whole clip keeps the waveform and the contrast; a limiter would undo the gain.
    peak = samples.abs().max().item()
    return samples * (PEAK / peak) if peak > PEAK else samples


def _encode(samples: np.ndarray, sample_rate: int, file_format: str, subtype: str | None) -> bytes:
    buffer = io.BytesIO()
    small = {"bitrate_mode": "VARIABLE", "compression_level": _COMPRESSION} if file_format == "MP3" else {}
    try:
        soundfile.write(buffer, samples, sample_rate, format=file_format, subtype=subtype, **small)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"cannot write {file_format} at {sample_rate} Hz: resample to 16000 Hz first") from error
    return buffer.getvalue()
