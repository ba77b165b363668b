"""Where in time or text an intervention acts: spans and single places, in positions (or tokens) or in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.indices import is_boolean, is_integer, read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.patching.grid import Span
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
Where = One | Sequence[One] | Sequence[bool] | range | np.ndarray | Tensor | Places | None


def places(where: Where, unit: str = "positions", *, n: int | None = None, time: TimeMap | None = None) -> Places:
    """What a user wrote, as spans.

    Args:
        where: ``None`` (everywhere); a tuple ``(start, stop)``, a slice or a :class:`Span`, half-open; an
            :class:`Interval` (always seconds: a word or a phone of an alignment); one number; a list of those, a range,
            or an array or tensor of numbers; or a mask, one boolean for each position (in a list, array or tensor). So
            ``(3, 7)`` is four positions and ``[3, 7]`` is two.
        unit: ``"positions"`` (tokens, in the decoder), or ``"seconds"``: the positions whose cell has a part in it.
        n: positions or tokens that there are; more are refused.
        time: the model's clock (``model.time``), for seconds.

    Raises:
        PatchError: a span that ends before it starts or lies outside, an unknown unit, seconds where there is no clock.
    """
    check_option("unit", unit, UNITS, PatchError)
    if where is None:
        return EVERYWHERE
    if isinstance(where, Places):
        spans = where.spans or ()
    else:
        of_mask = _mask_spans(where, n)
        spans = of_mask or ()
        if of_mask is None:
            spans = tuple(_span(one, unit, n, time) for one in _entries(where))
    for start, stop in spans:
        if not 0 <= start <= stop or (n is not None and stop > n):
            inside = "" if n is None else f" inside the {n} there are"
            raise PatchError(f"[{start}, {stop}) is no span{inside}: give 0 <= start <= stop")
    return Places(spans) if not isinstance(where, Places) else where


def _entries(where: Any) -> list[Any]:
    """The places of a list, range, array or tensor; else the one that was given."""
    several = isinstance(where, Iterable) and not isinstance(where, tuple | str | Mapping)
    alone = isinstance(where, np.ndarray | Tensor) and where.ndim == 0
    return list(where) if several and not alone else [where]


def _mask_spans(where: object, n: int | None) -> tuple[tuple[int, int], ...] | None:
    """Spans of a mask with one boolean for each position, in a list, array or tensor; ``None`` for anything else."""
    if not isinstance(where, list | np.ndarray | Tensor) or getattr(where, "ndim", 1) != 1 or not len(where):
        return None
    if not any(is_boolean(entry) for entry in (where if isinstance(where, list) else where[:1])):
        return None
    numbers = np.array(read_indices(where, len(where) if n is None else n, "positions", PatchError), dtype=int)
    starts = numbers[np.diff(numbers, prepend=-2) != 1]
    stops = numbers[np.diff(numbers, append=np.iinfo(int).max) != 1] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def _span(one: One, unit: str, n: int | None, time: TimeMap | None) -> tuple[int, int]:
    if isinstance(one, Span):
        return one.start, one.stop
    if isinstance(one, Interval):
        one, unit = (one.start, one.end), "seconds"
    if isinstance(one, slice):
        if one.step not in (None, 1) or (one.stop is None and n is None):
            raise PatchError(f"{one} is no span: give slice(start, stop)")
        one = (0 if one.start is None else one.start, n if one.stop is None else one.stop)  # type: ignore[assignment]
    if isinstance(one, tuple) and len(one) != 2:
        raise PatchError(f"{one!r:.80} is no span: a tuple is (start, stop), a list holds several positions or spans")
    if unit == "seconds":
        if time is None:
            raise PatchError("seconds are for encoder positions; give decoder tokens by their number")
        if not all(_is_time(x) for x in (one if isinstance(one, tuple) else (one,))):
            raise PatchError(f"{_shown(one)} is not a time in seconds or a span of them")
        if isinstance(one, tuple):
            span = time.span(one[0], one[1], rounding="outer")
            return span.start, span.stop
        return time.position(one), time.position(one) + 1  # type: ignore[arg-type]
    edges: tuple[Any, ...] = one if isinstance(one, tuple) else (one,)
    if not all(is_integer(edge) for edge in edges):
        raise PatchError(f"{_shown(one)} is not a whole position or span of them: give unit='seconds' for seconds")
    start = int(edges[0])
    return start, int(edges[-1]) if isinstance(one, tuple) else start + 1


def _is_time(x: object) -> bool:
    return is_integer(x) or isinstance(x, float | np.floating) or (isinstance(x, Tensor) and x.dim() == 0)


def _shown(one: object) -> str:
    if isinstance(one, tuple):
        return f"[{', '.join(map(str, one))})"
    return f"{one!r:.60} ({type(one).__name__})"


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
