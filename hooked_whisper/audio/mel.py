"""Whisper's log-mel spectrogram, differentiable with respect to the waveform.

The values are those of ``whisper.log_mel_spectrogram`` (same filter bank, window and clamp), with two differences: in a
batch the maximum is taken per clip, and it can be set by the caller, so that editing one word does not change other
frames.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import AudioError

Number = float | int  # mypy accepts an int as a float, the run-time type checks under pytest do not

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160
POWER_FLOOR = 1e-10  # lower power is raised to this
DYNAMIC_RANGE = 8.0  # log10 units kept below the maximum
_BLOCK = 256  # frames transformed at a time
MIN_SAMPLES = N_FFT  # one analysis window, 25 ms; the STFT reflects N_FFT // 2 samples at each end


def log_mel_spectrogram(
    audio: Float[Tensor, "*batch sample"],
    n_mels: int = 80,
    reference_max: Number | Float[Tensor, "*#batch"] | None = None,
    padding: int = 0,
) -> Float[Tensor, "*batch mel frame"]:
    """Return the log-mel spectrogram of 16 kHz audio: ``sample // 160`` frames of 10 ms.

    Frame ``f`` covers the 400 samples around sample ``160 f``. Values are about -1.5 (silence) to 1.5.

    Args:
        audio: waveform in [-1, 1], at least 400 samples. Half precision is converted to float32.
        n_mels: 80, or 128 for large-v3 and turbo.
        reference_max: log10 of the maximum mel power, from :func:`log_mel_max`; values more than 8 below it are raised
            to 8 below it. One number, or one per clip. ``None`` takes each clip's own maximum
            (``whisper.log_mel_spectrogram`` takes the maximum of the batch).
        padding: number of zero samples to append first.

    Raises:
        AudioError: the audio has fewer than 400 samples or integer samples, or ``n_mels`` is not 80 or 128.

    Source: openai-whisper ``audio.py``.
    """
    log_power = _log_mel_power(audio, n_mels, padding)
    if reference_max is None:
        top = log_power.amax(dim=(-2, -1))
    else:
        top = torch.as_tensor(reference_max, dtype=log_power.dtype, device=log_power.device)
    log_power = torch.maximum(log_power, top[..., None, None] - DYNAMIC_RANGE)
    return (log_power + 4.0) / 4.0


def log_mel_max(audio: Float[Tensor, "*batch sample"], n_mels: int = 80, padding: int = 0) -> Float[Tensor, "*batch"]:
    """Return each clip's maximum log10 mel power, the default ``reference_max`` of :func:`log_mel_spectrogram`.

    To compare clips, pass the largest of their maxima for each. Silence has -10.
    """
    return _log_mel_power(audio, n_mels, padding).amax(dim=(-2, -1))


def _log_mel_power(audio: Tensor, n_mels: int, padding: int) -> Float[Tensor, "*batch mel frame"]:
    if not audio.is_floating_point():
        raise AudioError(f"the log-mel needs float samples in [-1, 1], got {audio.dtype}: load_audio scales them")
    if audio.dtype in (torch.float16, torch.bfloat16):
        audio = audio.float()
    if padding > 0:
        audio = F.pad(audio, (0, padding))
    if audio.ndim == 0 or audio.shape[-1] < MIN_SAMPLES:
        raise AudioError(
            f"audio of shape {tuple(audio.shape)} is too short: the log-mel needs at least {MIN_SAMPLES} samples "
            "(25 ms); pad it with zeros"
        )
    rows = audio.reshape(-1, audio.shape[-1])
    padded = F.pad(rows[:, None], (N_FFT // 2, N_FFT // 2), mode="reflect")[:, 0]
    frames = padded.unfold(-1, N_FFT, HOP)[:, :-1]  # [row, frame, N_FFT], a view; whisper drops the last frame, too
    heard = _frames_with_sound(rows, frames.shape[1])
    window = torch.hann_window(N_FFT, dtype=audio.dtype, device=audio.device)
    filters = mel_filters(n_mels, audio.dtype, audio.device)
    block = _BLOCK if audio.device.type == "cpu" else heard  # blocks that fit the cache take a third of the time
    mel_power = torch.cat([_mel_power(part, window, filters) for part in frames[:, :heard].split(block, dim=1)], dim=1)
    log_power = mel_power.transpose(1, 2).clamp(min=POWER_FLOOR).log10()
    log_power = F.pad(log_power, (0, frames.shape[1] - heard), value=math.log10(POWER_FLOOR))
    return log_power.reshape(*audio.shape[:-1], n_mels, -1)


def _mel_power(
    frames: Float[Tensor, "row frame sample"], window: Float[Tensor, "sample"], filters: Float[Tensor, "mel frequency"]
) -> Float[Tensor, "row frame mel"]:
    real, imaginary = torch.view_as_real(torch.fft.rfft(frames * window)).unbind(-1)
    return F.linear(real * real + imaginary * imaginary, filters)


def _frames_with_sound(rows: Float[Tensor, "row sample"], n_frames: int) -> int:
    """Number of frames up to the last one that has a sample other than zero, at least 1.

    The padding of a short clip is most of its window. Its frames have no power and need no Fourier transform.
    """
    if rows.device.type != "cpu":
        return n_frames  # finding the end would wait for the device
    sounding = np.flatnonzero(rows.detach().any(0).numpy())
    last = int(sounding[-1]) if len(sounding) else 0
    return min(n_frames, (last + N_FFT // 2) // HOP + 1)


@lru_cache(maxsize=16)
def mel_filters(n_mels: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "mel frequency"]:
    """Return openai-whisper's mel filter bank for the 201 STFT frequencies. It is cached: do not modify it."""
    from whisper.audio import mel_filters as openai_mel_filters  # imported here because it is slow

    if n_mels not in (80, 128):
        raise AudioError(f"no mel filter bank with {n_mels} bins: Whisper has 80 and 128; give a mel instead of audio")
    # Copy outside inference mode: the tensor is cached, and an inference tensor could not be used in autograd.
    with torch.inference_mode(False):
        return openai_mel_filters("cpu", n_mels).to(device=device, dtype=dtype, copy=True)
