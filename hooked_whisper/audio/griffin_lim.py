"""Invert a log-mel: find the spectrum of the mel bands, then phases for the spectrum.

A mel says nothing about phases and little about fine structure, so that the voice sounds hoarse; what is said stays.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio.listen import PEAK
from hooked_whisper.audio.mel import HOP, N_FFT, mel_filters
from hooked_whisper.errors import AudioError

MOMENTUM = 0.99
_TINY = 1e-16  # below what any mel holds; keeps quotients finite


def mel_to_power(
    mel: Float[Tensor, "*batch mel frame"], iterations: int = 50
) -> Float[Tensor, "*batch frequency frame"]:
    """Power of the 201 frequencies whose mel bands are those of a log-mel, never negative.

    Undoes the scaling of :func:`hooked_whisper.audio.log_mel_spectrogram`, then improves the mean power of each band by
    multiplicative steps that lessen the Kullback-Leibler divergence of the bands (which minds quiet bands as much as
    loud ones). Frequencies in no band (0 and 8,000 Hz) have none.

    Raises:
        AudioError: another number of mel bands than 80 or 128, NaN or infinity.

    Source: Richardson 1972 and Lucy 1974; Lee & Seung 2001 (the same step, one factor held).
    """
    if not torch.isfinite(mel).all():
        raise AudioError("the mel has NaN or infinity: it cannot be converted to audio")
    bands = torch.pow(10.0, 4.0 * mel - 4.0)
    filters = mel_filters(mel.shape[-2], mel.dtype, mel.device)
    weight = filters.sum(0)[:, None]  # [frequency, 1]
    heard = weight > 0
    back = filters.T / torch.where(heard, weight, 1.0)
    power = back @ (bands / filters.sum(1)[:, None])  # of each frequency, the mean of its bands' mean powers
    for _ in range(iterations):
        power = power * (back @ (bands / (filters @ power).clamp(min=_TINY)))
    return torch.where(heard, power, 0.0)


@torch.no_grad()
def griffin_lim(
    mel: Float[Tensor, "*batch mel frame"], iterations: int = 32, seed: int = 0
) -> Float[Tensor, "*batch sample"]:
    """16 kHz audio, ``160 * frame`` samples, whose log-mel is near a given one.

    The spectrum is that of :func:`mel_to_power`; its phases start at random (``seed``) and are made consistent by the
    fast Griffin-Lim algorithm (momentum 0.99), with the window and hop of the log-mel. A clip beyond full scale is
    scaled down as a whole to a peak of 0.99, others keep the level that the mel says.

    Raises:
        AudioError: fewer than 3 frames, NaN or infinity, or a number of mel bands that Whisper does not have.

    Source: Griffin & Lim 1984; Perraudin, Balazs & Søndergaard 2013.
    """
    frames = mel.shape[-1]
    if frames < 3:
        raise AudioError(f"a mel of {frames} frames is too short to invert: give at least 3 (30 ms)")
    flat = mel.detach().float().reshape(-1, *mel.shape[-2:])
    # The log-mel drops the last frame of the STFT: repeat the one before.
    magnitude = mel_to_power(flat).sqrt()
    magnitude = torch.cat([magnitude, magnitude[..., -1:]], dim=-1)
    window = torch.hann_window(N_FFT, device=flat.device)
    samples = frames * HOP

    def sound(spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, N_FFT, HOP, window=window, center=True, length=samples)

    # the same phases for each clip, so that a clip does not depend on its batch
    generator = torch.Generator().manual_seed(seed)
    phase = (2 * torch.pi * torch.rand(magnitude.shape[1:], generator=generator)).to(flat.device)
    spectrum = torch.polar(magnitude, phase.expand_as(magnitude))
    before = torch.zeros_like(spectrum)
    for _ in range(iterations):
        projected = torch.stft(
            sound(spectrum), N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True
        )
        ahead = projected + MOMENTUM * (projected - before)
        spectrum = magnitude * ahead / ahead.abs().clamp(min=_TINY)
        before = projected
    audio = sound(spectrum)
    peak = audio.abs().amax(-1, keepdim=True)
    audio = audio * torch.where(peak > PEAK, PEAK / peak, 1.0)
    return audio.reshape(*mel.shape[:-2], samples)
