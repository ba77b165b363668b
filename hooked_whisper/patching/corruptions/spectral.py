"""Corruptions of a frequency band, in the audio (scipy filters) or in the log-mel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from hooked_whisper._support.showing import Showing
from hooked_whisper.audio import HOP, SAMPLE_RATE, log_mel_max, mel_filters
from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions.record import Audio, Corruption, as_audio, sample_range, whole_clip
from hooked_whisper.patching.corruptions.splice import cross_fade
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ORDER = 6  # of the Butterworth filter; run forward and backward: no phase shift, twice the slope
NYQUIST = SAMPLE_RATE / 2
Hz = float | int


def low_pass(audio: Audio, cutoff_hz: Hz, span: Interval | None = None) -> Corruption:
    """Remove frequencies above ``cutoff_hz``, in a span or in the whole clip."""
    return _filtered(audio, "lowpass", (cutoff_hz,), span)


def high_pass(audio: Audio, cutoff_hz: Hz, span: Interval | None = None) -> Corruption:
    """Remove frequencies below ``cutoff_hz``, in a span or in the whole clip."""
    return _filtered(audio, "highpass", (cutoff_hz,), span)


def band_pass(audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None) -> Corruption:
    """Keep only the band from ``low_hz`` to ``high_hz``, in a span or in the whole clip."""
    return _filtered(audio, "bandpass", (low_hz, high_hz), span)


def band_stop(audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None) -> Corruption:
    """Remove the band from ``low_hz`` to ``high_hz``, in a span or in the whole clip."""
    return _filtered(audio, "bandstop", (low_hz, high_hz), span)


def _filtered(audio: Audio, kind: str, edges: tuple[Hz, ...], span: Interval | None) -> Corruption:
    _check_band(edges)
    clean = as_audio(audio)
    changed = whole_clip(len(clean)) if span is None else span
    samples = sample_range(changed, len(clean))
    sections = butter(ORDER, edges if len(edges) > 1 else edges[0], kind, fs=SAMPLE_RATE, output="sos")
    filtered = sosfiltfilt(sections, clean.astype(np.float64), padlen=min(200, len(clean) - 1)).astype(np.float32)
    corrupt = clean.copy()
    corrupt[samples] = filtered[samples] if span is None else cross_fade(clean[samples], filtered[samples])
    return Corruption("spectral edit", clean, corrupt, (changed,), {"filter": kind, "hz": tuple(map(float, edges))})


@dataclass(frozen=True, eq=False, repr=False)
class MelCorruption(Showing):
    """Two log-mels that differ only in some bins and frames. ``spans`` are half-open, in seconds."""

    kind: str
    clean: Float[Tensor, "1 mel frame"]
    corrupt: Float[Tensor, "1 mel frame"]
    bins: tuple[int, ...]
    spans: tuple[Interval, ...]


def mask_mel_band(
    model: HookedWhisper, audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None
) -> MelCorruption:
    """Set the mel bins whose center lies in a band to the floor of the log-mel, in a span or in the whole clip.

    The clean clip's maximum is the reference of both log-mels, so this equals removing the power of the bins.

    Raises:
        AudioError: no bin has its center in the band, or the span is outside the clip.
    """
    _check_band((low_hz, high_hz))
    clip, n_mels = as_audio(audio), model.cfg.encoder.n_mels
    filters = mel_filters(n_mels, torch.float32, torch.device("cpu"))
    hertz = torch.linspace(0, NYQUIST, filters.shape[1])
    centers = hertz[filters.argmax(1)]  # [mel]
    bins = torch.nonzero((centers >= low_hz) & (centers < high_hz)).flatten()
    if not len(bins):
        raise AudioError(f"no mel bin has its center in [{low_hz}, {high_hz}) Hz: widen the band")
    changed = whole_clip(len(clip)) if span is None else span
    samples = sample_range(changed, len(clip))
    top = float(log_mel_max(torch.from_numpy(clip), n_mels))
    clean = model.to_mel(clip, reference_max=top)
    corrupt = clean.clone()
    frames = torch.arange(-(-samples.start // HOP), -(-samples.stop // HOP))
    corrupt[:, bins[:, None], frames[None, :]] = (top - 8.0 + 4.0) / 4.0
    return MelCorruption("mel band mask", clean, corrupt, tuple(bins.tolist()), (changed,))


def _check_band(edges: tuple[Hz, ...]) -> None:
    rising = all(a < b for a, b in pairwise(edges))
    if not rising or not all(0 < e < NYQUIST for e in edges):
        raise AudioError(f"filter edges {edges} Hz must rise and lie between 0 and {NYQUIST:g} Hz")
