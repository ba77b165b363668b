"""Record types and protocols that several layers share.

Times are seconds, intervals are half-open: ``[start, end)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_whisper.errors import ArgumentError, check_option

SILENCE = "SIL"
Stack = Literal["encoder", "decoder", "cross"]
"""Where attention heads live: the encoder, the decoder's self-attention, and its cross-attention."""
STACKS: tuple[Stack, ...] = get_args(Stack)
ResidualStack = Literal["encoder", "decoder"]
"""The stacks of blocks, each with a residual stream."""
RESIDUAL_STACKS: tuple[ResidualStack, ...] = get_args(ResidualStack)
_LETTERS: dict[Stack, str] = {"encoder": "E", "decoder": "D", "cross": "X"}
_HEAD = re.compile(
    r"(?P<stack>encoder|decoder|cross)\s*(?P<block>\d+)\.(?P<head>\d+)|(?P<letter>[EDX])(\d+)\.(\d+)", re.IGNORECASE
)
_NO_STACK = re.compile(r"L?(\d+)(?:\.|H)(\d+)", re.IGNORECASE)  # TransformerLens' labels, such as L2H3


@dataclass(frozen=True, slots=True, order=True)
class HeadRef:
    """One attention head: ``"encoder 2.3"`` is head 3 of encoder block 2."""

    stack: Stack
    block: int
    head: int

    def __post_init__(self) -> None:
        check_option("stack", self.stack, STACKS)

    @classmethod
    def parse(cls, head: HeadLike, stack: Stack = "encoder", error: type[Exception] = ArgumentError) -> HeadRef:
        """Read one head.

        Args:
            head: a :class:`HeadRef`, ``"cross 3.1"``, a label such as ``"X3.1"`` (in either case), ``(block, head)`` or
                ``(stack, block, head)``.
            stack: the stack of a plain ``(block, head)``.
            error: type of the error.

        Raises:
            ``error``: ``head`` has none of these forms.
        """
        if isinstance(head, HeadRef):
            return head
        match = _HEAD.fullmatch(head.strip()) if isinstance(head, str) else None
        if match is not None:
            letter = (match["letter"] or "").upper()
            named = (match["stack"] or "").lower() or next(s for s in STACKS if _LETTERS[s] == letter)
            return cls(named, int(match["block"] or match[5]), int(match["head"] or match[6]))  # type: ignore[arg-type]
        if isinstance(head, Sequence) and not isinstance(head, str) and len(head) in (2, 3):
            named, block, number = (stack, *head) if len(head) == 2 else head
            if named in STACKS and all(hasattr(n, "__index__") and not isinstance(n, bool) for n in (block, number)):
                return cls(named, int(block), int(number))  # type: ignore[arg-type]
        numbers = _NO_STACK.fullmatch(head.strip()) if isinstance(head, str) else None
        if numbers is not None:
            options = " or ".join(f"'{name} {numbers[1]}.{numbers[2]}'" for name in STACKS)
            raise error(f"{head!r} is an attention head of no stack: write {options}")
        raise error(f"{head!r:.80} is not an attention head: give 'encoder 2.3', 'E2.3', or (block, head) with a stack")

    @staticmethod
    def is_head(value: object) -> bool:
        """Whether ``value`` names a head including its stack, so that :meth:`parse` needs no ``stack``."""
        return isinstance(value, HeadRef) or (isinstance(value, str) and _HEAD.fullmatch(value.strip()) is not None)

    @property
    def attn(self) -> str:
        """Module name of the attention: ``decoder.blocks.3.cross_attn``."""
        return attention_name(self.stack, self.block)

    @property
    def label(self) -> str:
        """``E2.3``, ``D2.3`` (decoder self-attention) or ``X2.3`` (cross-attention)."""
        return f"{_LETTERS[self.stack]}{self.block}.{self.head}"

    def __str__(self) -> str:
        return f"{self.stack} {self.block}.{self.head}"


HeadLike = HeadRef | str | tuple[int, int] | tuple[str, int, int]


def attention_name(stack: Stack, block: int) -> str:
    """Return the module name of an attention: ``("cross", 1)`` is ``decoder.blocks.1.cross_attn``."""
    check_option("stack", stack, STACKS)
    return f"decoder.blocks.{block}.cross_attn" if stack == "cross" else f"{stack}.blocks.{block}.attn"


@dataclass(frozen=True, slots=True)
class Positions:
    """Half-open spans of encoder positions or decoder tokens, with a label for figures.

    ``spans=None`` means everywhere. :func:`hooked_whisper.patching.read_positions` makes one from seconds, words,
    slices, masks and numbers.
    """

    spans: tuple[tuple[int, int], ...] | None
    label: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for start, stop in self.spans or ():
            if not 0 <= start <= stop:
                raise ArgumentError(f"positions [{start}, {stop}): need 0 <= start <= stop")

    @property
    def start(self) -> int:
        """First position of the first span.

        Raises:
            ArgumentError: there is no span.
        """
        return self._known_spans()[0][0]

    @property
    def stop(self) -> int:
        """End of the last span.

        Raises:
            ArgumentError: there is no span.
        """
        return self._known_spans()[-1][1]

    def _known_spans(self) -> tuple[tuple[int, int], ...]:
        if not self.spans:
            raise ArgumentError(f"{self} has no span with a start and a stop")
        return self.spans

    def indices(self, size: int) -> tuple[int, ...]:
        """Position numbers below ``size``, in rising order, each once."""
        return tuple(torch.nonzero(self.mask(torch.arange(size))).flatten().tolist())

    def mask(self, numbers: Int[Tensor, "position"]) -> Bool[Tensor, "position"]:
        """Return which of these absolute position (or token) numbers are included."""
        if self.spans is None:
            return torch.ones_like(numbers, dtype=torch.bool)
        edges = torch.tensor(self.spans, device=numbers.device, dtype=numbers.dtype).reshape(-1, 2)
        return ((numbers[:, None] >= edges[:, 0]) & (numbers[:, None] < edges[:, 1])).any(1)


@dataclass(frozen=True, slots=True)
class Interval:
    """A labeled interval of audio in seconds: ``start`` is included, ``end`` is not."""

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
    """Words, phones and silences of one utterance, with times in seconds.

    ``phones`` covers speech and silence (label :data:`SILENCE`); ``words`` covers words only.
    """

    utterance: str
    speaker: str
    text: str
    duration: float
    words: tuple[Interval, ...] = ()
    phones: tuple[Interval, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        counts = f"{len(self.words)} words, {len(self.phones)} phones"
        return f"Alignment({self.utterance!r}, {text!r}, {self.duration:.2f} s, {counts})"

    @property
    def silences(self) -> tuple[Interval, ...]:
        return tuple(p for p in self.phones if p.label == SILENCE)

    def shifted(self, seconds: float, duration: float | None = None) -> Alignment:
        """Return the alignment ``seconds`` later. The caller adds leading silence of that length."""
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
    """Anything that encodes activations as features: neurons, directions, an SAE."""

    @property
    def n_features(self) -> int: ...

    @property
    def labels(self) -> Sequence[str]: ...

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Encodes activations as features, and decodes features."""

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...

    def decode(self, features: Tensor) -> Tensor:
        """``[..., n_features] -> [..., d_out]``"""
        ...


@runtime_checkable
class DecodesLike(Protocol):
    """The same where decoding also needs the activation: a skip path, a scale per activation."""

    def encode(self, activations: Tensor) -> Tensor:
        """``[..., d_in] -> [..., n_features]``"""
        ...

    def decode_like(self, features: Tensor, activations: Tensor) -> Tensor:
        """``[..., n_features], [..., d_in] -> [..., d_out]``: the reconstruction for these ``activations``."""
        ...


AttachableSAE = Decodes | DecodesLike
"""What :meth:`~hooked_whisper.model.WhisperCore.attach_sae` takes. ``decode_like`` is preferred if both exist.

Its sizes are the attributes ``d_in``, ``d_out`` and ``n_features``, of the object or of its ``config``. If they are
missing, it is tried on one vector. A crosscoder has ``n_blocks`` too, and takes and gives ``[..., n_blocks, d_in]``.
"""
