"""Edits of a band of frequencies, in the sound (scipy's filters) or in the log-mel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from hooked_whisper.audio import HOP, SAMPLE_RATE, log_mel_max, mel_filters
from hooked_whisper.errors import AudioError
from hooked_whisper.patching.corruptions.record import Audio, Corruption, as_audio, sample_range, whole_clip
from hooked_whisper.patching.corruptions.splice import cross_fade
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

ORDER = 6  # of the Butterworth filter; run forwards and backwards, so no phase shift and twice the slope
NYQUIST = SAMPLE_RATE / 2
Hz = float | int


def low_pass(audio: Audio, cutoff_hz: Hz, span: Interval | None = None) -> Corruption:
    """Nothing above ``cutoff_hz``, in a span or in the whole clip."""
    return _filtered(audio, "lowpass", (cutoff_hz,), span)


def high_pass(audio: Audio, cutoff_hz: Hz, span: Interval | None = None) -> Corruption:
    """Nothing below ``cutoff_hz``, in a span or in the whole clip."""
    return _filtered(audio, "highpass", (cutoff_hz,), span)


def band_pass(audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None) -> Corruption:
    """Only the band from ``low_hz`` to ``high_hz``, in a span or in the whole clip."""
    return _filtered(audio, "bandpass", (low_hz, high_hz), span)


def band_stop(audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None) -> Corruption:
    """All but the band from ``low_hz`` to ``high_hz``, in a span or in the whole clip."""
    return _filtered(audio, "bandstop", (low_hz, high_hz), span)


def _filtered(audio: Audio, kind: str, edges: tuple[Hz, ...], span: Interval | None) -> Corruption:
    _check_band(edges)
    clean = as_audio(audio)
    where = whole_clip(len(clean)) if span is None else span
    here = sample_range(where, len(clean))
    sections = butter(ORDER, edges if len(edges) > 1 else edges[0], kind, fs=SAMPLE_RATE, output="sos")
    heard = sosfiltfilt(sections, clean.astype(np.float64), padlen=min(200, len(clean) - 1)).astype(np.float32)
    corrupt = clean.copy()
    corrupt[here] = heard[here] if span is None else cross_fade(clean[here], heard[here])
    return Corruption("spectral edit", clean, corrupt, (where,), {"filter": kind, "hz": tuple(map(float, edges))})


@dataclass(frozen=True, eq=False)
class MelCorruption:
    """Two log-mels, equal outside a block of bins and frames. ``spans`` are in seconds, half-open."""

    kind: str
    clean: Float[Tensor, "1 mel frame"]
    corrupt: Float[Tensor, "1 mel frame"]
    bins: tuple[int, ...]
    spans: tuple[Interval, ...]


def mask_mel_band(
    model: HookedWhisper, audio: Audio, low_hz: Hz, high_hz: Hz, span: Interval | None = None
) -> MelCorruption:
    """A clip's log-mel, and the same without power in the bins whose centre lies in a band.

    The clean clip's maximum is the reference of both, so this is the same as emptying the bins before the clamp at 8
    below the maximum: they get the floor.

    Raises:
        AudioError: a band without a bin, or a span outside the clip.
    """
    _check_band((low_hz, high_hz))
    clip, n_mels = as_audio(audio), model.cfg.encoder.n_mels
    filters = mel_filters(n_mels, torch.float32, torch.device("cpu"))
    hertz = torch.linspace(0, NYQUIST, filters.shape[1])
    centres = hertz[filters.argmax(1)]  # [mel]
    chosen = torch.nonzero((centres >= low_hz) & (centres < high_hz)).flatten()
    if not len(chosen):
        raise AudioError(f"no mel bin has its centre in [{low_hz}, {high_hz}) Hz: widen the band")
    where = whole_clip(len(clip)) if span is None else span
    here = sample_range(where, len(clip))
    top = float(log_mel_max(torch.from_numpy(clip), n_mels))
    clean = model.to_mel(clip, reference_max=top)
    corrupt = clean.clone()
    frames = torch.arange(-(-here.start // HOP), -(-here.stop // HOP))
    corrupt[:, chosen[:, None], frames[None, :]] = (top - 8.0 + 4.0) / 4.0
    return MelCorruption("mel band mask", clean, corrupt, tuple(chosen.tolist()), (where,))


def _check_band(edges: tuple[Hz, ...]) -> None:
    rising = all(a < b for a, b in pairwise(edges))
    if not rising or not all(0 < e < NYQUIST for e in edges):
        raise AudioError(f"filter edges {edges} Hz must rise and lie between 0 and {NYQUIST:g} Hz")
