"""Where in time or text an intervention acts: spans and single places, in positions (or tokens) or in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError
from hooked_whisper.interventions.sites import Span
from hooked_whisper.protocols import Interval

UNITS = ("positions", "seconds")


@dataclass(frozen=True)
class Places:
    """Half-open stretches of positions or tokens; ``None`` is everywhere."""

    spans: tuple[tuple[int, int], ...] | None

    def of(self, at: Int[Tensor, "place"]) -> Bool[Tensor, "place"]:
        """Which of these absolute positions (or tokens) belong to it."""
        if self.spans is None:
            return torch.ones_like(at, dtype=torch.bool)
        edges = torch.tensor(self.spans, device=at.device, dtype=at.dtype).reshape(-1, 2)
        return ((at[:, None] >= edges[:, 0]) & (at[:, None] < edges[:, 1])).any(1)


EVERYWHERE = Places(None)
One = int | float | slice | Interval | Span | tuple[int | float, int | float]
Where = One | Sequence[One] | Places | None


def places(where: Where, unit: str = "positions", *, n: int | None = None, time: TimeMap | None = None) -> Places:
    """What a user wrote, as spans.

    Args:
        where: ``None`` (everywhere); a tuple ``(start, stop)``, a slice or a :class:`Span`, half-open; an
            :class:`Interval` (always seconds: a word or a phone of an alignment); one number; or a list of those. So
            ``(3, 7)`` is four positions and ``[3, 7]`` is two.
        unit: ``"positions"`` (tokens, in the decoder), or ``"seconds"``: the positions whose cell has a part in it.
        n: positions or tokens that there are; more are refused.
        time: the model's clock (``model.time``), for seconds.

    Raises:
        PatchError: a span that ends before it starts or lies outside, an unknown unit, seconds where there is no clock.
    """
    if where is None:
        return EVERYWHERE
    if unit not in UNITS:
        raise PatchError(f"unit is 'positions' or 'seconds', not {unit!r}")
    if isinstance(where, Places):
        spans = where.spans or ()
    else:
        several = isinstance(where, Sequence) and not isinstance(where, tuple)
        spans = tuple(_span(one, unit, n, time) for one in (where if several else (where,)))  # type: ignore[union-attr, arg-type]
    for start, stop in spans:
        if not 0 <= start <= stop or (n is not None and stop > n):
            inside = "" if n is None else f" inside the {n} there are"
            raise PatchError(f"[{start}, {stop}) is no span{inside}: give 0 <= start <= stop")
    return Places(spans) if not isinstance(where, Places) else where


def _span(one: One, unit: str, n: int | None, time: TimeMap | None) -> tuple[int, int]:
    if isinstance(one, Span):
        return one.start, one.stop
    if isinstance(one, Interval):
        one, unit = (one.start, one.end), "seconds"
    if isinstance(one, slice):
        if one.step not in (None, 1) or (one.stop is None and n is None):
            raise PatchError(f"{one} is no span: give slice(start, stop)")
        one = (one.start or 0, n if one.stop is None else one.stop)  # type: ignore[assignment]
    if unit == "seconds":
        if time is None:
            raise PatchError("seconds are for encoder positions; give decoder tokens by their number")
        if isinstance(one, tuple):
            span = time.span(one[0], one[1], rounding="outer")
            return span.start, span.stop
        return time.position(one), time.position(one) + 1  # type: ignore[arg-type]
    start, stop = one if isinstance(one, tuple) else (one, one + 1)  # type: ignore[operator, assignment]
    assert not isinstance(start, slice)
    if int(start) != start or int(stop) != stop:
        raise PatchError(f"[{start}, {stop}) are not whole positions: give unit='seconds' for seconds")
    return int(start), int(stop)


def filled_positions(mel: Float[Tensor, "batch mel frame"]) -> tuple[int, ...]:
    """Encoder positions that each clip fills: up to the last frame that differs from the window's last one.

    The padding behind a clip is the same in every frame (the clip's floor), so it needs no other knowledge than the
    mel. Digital silence at a clip's end counts as padding; a window without any constant tail is full.
    """
    changes = (mel != mel[:, :, -1:]).any(1)  # [batch, frame]
    frames = torch.arange(1, mel.shape[2] + 1, device=mel.device)
    last = (changes * frames).amax(1)
    # a window of noise up to its end: the last frame is the only one like itself
    last = torch.where(last >= mel.shape[2] - 1, torch.full_like(last, mel.shape[2]), last)
    return tuple(int(k) for k in (last + 1) // 2)
