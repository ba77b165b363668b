"""The result of a corruption: a clean and a corrupt clip, equal outside the changed spans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper._support.showing import Showing, Summary
from hooked_whisper.audio import HOP, SAMPLE_RATE, log_mel_max
from hooked_whisper.errors import AudioError, PatchError
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Audio = Float[np.ndarray, "_"]  # 16 kHz samples
MARGIN_FRAMES = 4  # an analysis window reaches 1.25 frames past a span
TOLERANCE = 1e-3  # largest difference of the log-mels outside span and margin


def sample_range(span: Interval, n_samples: int) -> slice:
    """Return the samples of a span, with both ends rounded to the nearest sample.

    Raises:
        AudioError: the span contains no sample of the clip, or ends more than a millisecond after it.
    """
    start, stop = round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)
    if stop > n_samples + SAMPLE_RATE // 1000 or start >= min(stop, n_samples):
        raise AudioError(
            f"span {span.label!r} [{span.start:g}, {span.end:g}) s contains no sample of the clip or ends after its "
            f"{n_samples / SAMPLE_RATE:g} s: take an interval of this clip's alignment"
        )
    return slice(start, min(stop, n_samples))


def whole_clip(n_samples: int, label: str = "clip") -> Interval:
    """Return the span of the whole clip."""
    return Interval(0.0, n_samples / SAMPLE_RATE, label)


def as_audio(audio: Any) -> Audio:
    """Return a copy of one clip as a float32 array.

    Raises:
        AudioError: the clip has more than one axis, no samples, integers, NaN or infinity.
    """
    array = np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating) or not len(array):
        raise AudioError(
            f"a corruption needs one clip of float samples at 16 kHz, got {type(audio).__name__} of "
            f"shape {array.shape}, dtype {array.dtype}: pass load_audio(path) or recording.audio()"
        )
    if not np.isfinite(array).all():
        raise AudioError("the clip has NaN or infinite samples: remove them")
    return np.array(array, dtype=np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Corruption(Showing):
    """A clean and a corrupt clip of the same length, bit-equal outside ``spans``.

    Attributes:
        kind: name of the row in :data:`~hooked_whisper.patching.corruptions.CORRUPTIONS`.
        clean, corrupt: 16 kHz audio, [sample] each.
        spans: what was changed, in seconds; one span over everything for edits of the whole clip.
        parameters: arguments of the corruption (SNR in dB, gain, seed, ...).

    Raises:
        PatchError: the clips differ in length, there is no span, or samples outside the spans differ.
    """

    kind: str
    clean: Audio
    corrupt: Audio
    spans: tuple[Interval, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupt):
            raise PatchError(
                f"{self.kind}: {len(self.clean)} clean and {len(self.corrupt)} corrupt samples: fit the lengths"
            )
        if not self.spans:
            raise PatchError(f"{self.kind}: there is no span: give the changed spans")
        stray = np.flatnonzero((self.clean != self.corrupt) & ~self.changed)
        if len(stray):
            raise PatchError(
                f"{self.kind}: {len(stray)} samples outside the changed spans differ, the first at "
                f"{stray[0] / SAMPLE_RATE:.4f} s: widen the span, or cross-fade inside it"
            )

    @property
    def changed(self) -> Bool[np.ndarray, "sample"]:
        """Return a mask of the samples inside a span."""
        inside = np.zeros(len(self.clean), dtype=bool)
        for span in self.spans:
            inside[sample_range(span, len(inside))] = True
        return inside

    @property
    def whole(self) -> bool:
        """Whether the spans cover the whole clip."""
        return bool(self.changed.all())

    @property
    def swapped(self) -> Corruption:
        """The same pair with clean and corrupt exchanged."""
        return Corruption(self.kind, self.corrupt, self.clean, self.spans, {**self.parameters, "swapped": True})

    def reference_max(self, n_mels: int = 80) -> float:
        """Return the louder clip's maximum log10 mel power, the reference of both log-mels."""
        return float(log_mel_max(self._both(), n_mels).max())

    def mels(self, model: HookedWhisper) -> tuple[Float[Tensor, "1 mel frame"], Float[Tensor, "1 mel frame"]]:
        """Return the log-mels of both clips with one reference maximum, so that only frames of the spans differ.

        In a corruption of the whole clip, this gives the quieter clip the floor of the louder one; :meth:`own_mels`
        avoids it.

        Raises:
            PatchError: frames outside the spans (and 4 frames of margin) differ by more than 1e-3.
        """
        top = self.reference_max(model.cfg.encoder.n_mels)
        clean, corrupt = (model.to_mel(a, reference_max=top) for a in (self.clean, self.corrupt))
        check_frames(clean, corrupt, frame_mask(self.spans, clean.shape[-1]), self.kind)
        return clean, corrupt

    def own_mels(self, model: HookedWhisper) -> tuple[Float[Tensor, "1 mel frame"], Float[Tensor, "1 mel frame"]]:
        """Return the log-mels with each clip's own maximum, as in separate transcription. Any frame may differ."""
        return model.to_mel(self.clean), model.to_mel(self.corrupt)

    def _both(self) -> Float[Tensor, "two sample"]:
        return torch.from_numpy(np.stack([self.clean, self.corrupt]))

    def summary(self) -> Summary:
        title = f"Corruption: {self.kind}, {len(self.clean) / SAMPLE_RATE:.2f} s of audio"
        parameters = ", ".join(f"{name}={value!r:.40}" for name, value in self.parameters.items())
        rows = tuple((span.label, round(span.start, 3), round(span.end, 3)) for span in self.spans)
        return Summary(title, (parameters,) if parameters else (), ("changed span", "start (s)", "end (s)"), rows)


def frame_mask(spans: Sequence[Interval], n_frames: int) -> Bool[Tensor, "frame"]:
    """Return a mask of the mel frames that a change within the spans can affect, with a margin."""
    touched = torch.zeros(n_frames, dtype=torch.bool)
    for span in spans:
        first = math.floor(span.start * SAMPLE_RATE / HOP) - MARGIN_FRAMES
        touched[max(0, first) : math.ceil(span.end * SAMPLE_RATE / HOP) + MARGIN_FRAMES + 1] = True
    return touched


def check_frames(
    clean: Float[Tensor, "1 mel frame"],
    corrupt: Float[Tensor, "1 mel frame"],
    touched: Bool[Tensor, "frame"],
    kind: str,
) -> None:
    """Check that the log-mels of a pair agree in frames that are not ``touched``.

    Raises:
        PatchError: they differ by more than 1e-3.
    """
    difference = (clean - corrupt).abs().amax(dim=(0, 1)).cpu()
    difference[touched] = 0
    if (worst := float(difference.max())) > TOLERANCE:
        raise PatchError(
            f"{kind}: mel frame {int(difference.argmax())} is outside the changed spans and differs by {worst:.3g}: "
            "give both clips one reference maximum"
        )
