"""Small record types and protocols that several layers share.

Times are seconds, intervals are half-open: ``[start, end)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

SILENCE = "SIL"


@dataclass(frozen=True, slots=True)
class Interval:
    """One labelled stretch of audio, in seconds: ``start`` belongs to it, ``end`` does not."""

    start: float
    end: float
    label: str

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end):
            raise ValueError(f"interval {self.label!r}: need 0 <= start <= end, got [{self.start}, {self.end})")

    @property
    def duration(self) -> float:
        return self.end - self.start

    def shifted(self, seconds: float) -> Interval:
        return Interval(self.start + seconds, self.end + seconds, self.label)

    def scaled(self, factor: float) -> Interval:
        return Interval(self.start * factor, self.end * factor, self.label)


@dataclass(frozen=True, slots=True)
class Alignment:
    """What was said when: words, phones and silences of one utterance (times in seconds).

    ``phones`` covers speech and silence (label :data:`SILENCE`); ``words`` covers words only.
    """

    utterance: str
    speaker: str
    text: str
    duration: float
    words: tuple[Interval, ...] = ()
    phones: tuple[Interval, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def silences(self) -> tuple[Interval, ...]:
        return tuple(p for p in self.phones if p.label == SILENCE)

    def shifted(self, seconds: float, duration: float | None = None) -> Alignment:
        """The same utterance, ``seconds`` later (a leading silence of that length is added by the caller)."""
        return Alignment(
            self.utterance,
            self.speaker,
            self.text,
            self.duration + seconds if duration is None else duration,
            tuple(w.shifted(seconds) for w in self.words),
            tuple(p.shifted(seconds) for p in self.phones),
            self.extra,
        )


@runtime_checkable
class FeatureBasis(Protocol):
    """Anything that turns activations into features: neurons, directions, a sparse autoencoder."""

    @property
    def n_features(self) -> int: ...

    @property
    def labels(self) -> Sequence[str]: ...

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Features of an activation, and the way back from them."""

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...

    def decode(self, features: Tensor) -> Tensor:
        """``[..., n_features] -> [..., d_out]``"""
        ...


@runtime_checkable
class DecodesLike(Protocol):
    """The same where the way back needs the activation too: a skip path, a scale of each activation."""

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...

    def decode_like(self, features: Tensor, activations: Tensor) -> Tensor:
        """``[..., n_features], [..., d_in] -> [..., d_out]``: the reconstruction that belongs to ``activations``."""
        ...


Spliceable = Decodes | DecodesLike
"""What :meth:`~hooked_whisper.model.WhisperCore.splice` takes. ``decode_like`` is preferred where there are both.

``d_in``, ``d_out`` and ``n_features``, as attributes or in a ``config``, say what it takes and gives; where they are
missing it is tried on one vector.
"""
