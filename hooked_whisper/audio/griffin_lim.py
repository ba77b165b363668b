"""Invert a log-mel: estimate the spectrum from the mel bands, then the phases of the spectrum.

A mel has no phases and little fine structure, so the voice sounds hoarse, but the words remain intelligible.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.audio.listen import PEAK
from hooked_whisper.audio.mel import HOP, N_FFT, mel_filters
from hooked_whisper.errors import AudioError

MOMENTUM = 0.99
_TINY = 1e-16  # below any mel power; avoids division by zero


def mel_to_power(
    mel: Float[Tensor, "*batch mel frame"], iterations: int = 50
) -> Float[Tensor, "*batch frequency frame"]:
    """Return a non-negative power spectrum of 201 frequencies whose mel bands match a log-mel.

    Undo the scaling of :func:`hooked_whisper.audio.log_mel_spectrogram`, start from the mean power of each band, and
    reduce the Kullback-Leibler divergence of the bands, which counts quiet bands as much as loud ones, by
    multiplicative steps. Frequencies in no band (0 and 8,000 Hz) get zero power.

    Raises:
        AudioError: the number of mel bands is not 80 or 128, or the mel has NaN or infinite values.

    Source: Richardson 1972 and Lucy 1974; Lee & Seung 2001 (the same step with one factor fixed).
    """
    if not torch.isfinite(mel).all():
        raise AudioError("the mel has NaN or infinity: it cannot be converted to audio")
    bands = torch.pow(10.0, 4.0 * mel - 4.0)
    filters = mel_filters(mel.shape[-2], mel.dtype, mel.device)
    weight = filters.sum(0)[:, None]  # [frequency, 1]
    covered = weight > 0
    back = filters.T / torch.where(covered, weight, 1.0)
    power = back @ (bands / filters.sum(1)[:, None])  # per frequency, the mean of its bands' mean powers
    for _ in range(iterations):
        power = power * (back @ (bands / (filters @ power).clamp(min=_TINY)))
    return torch.where(covered, power, 0.0)


@torch.no_grad()
def griffin_lim(
    mel: Float[Tensor, "*batch mel frame"], iterations: int = 32, seed: int = 0
) -> Float[Tensor, "*batch sample"]:
    """Return 16 kHz audio of ``160 * frame`` samples whose log-mel approximates ``mel``.

    The magnitudes come from :func:`mel_to_power`. The phases start at random (``seed``) and are refined by the fast
    Griffin-Lim algorithm (momentum 0.99), with the window and hop of the log-mel. A clip beyond full scale is scaled to
    a peak of 0.99; other clips keep their level.

    Raises:
        AudioError: the mel has fewer than 3 frames, NaN or infinite values, or another number of bands than 80 or 128.

    Source: Griffin & Lim 1984; Perraudin, Balazs & Søndergaard 2013.
    """
    frames = mel.shape[-1]
    if frames < 3:
        raise AudioError(f"a mel of {frames} frames is too short to invert: give at least 3 (30 ms)")
    flat = mel.detach().float().reshape(-1, *mel.shape[-2:])
    # The log-mel drops the last frame of the STFT: repeat the last frame of the mel.
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
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        projected = torch.stft(
            sound(spectrum), N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True
        )
        ahead = projected + MOMENTUM * (projected - previous)
        spectrum = magnitude * ahead / ahead.abs().clamp(min=_TINY)
        previous = projected
    audio = sound(spectrum)
    peak = audio.abs().amax(-1, keepdim=True)
    audio = audio * torch.where(peak > PEAK, PEAK / peak, 1.0)
    return audio.reshape(*mel.shape[:-2], samples)
