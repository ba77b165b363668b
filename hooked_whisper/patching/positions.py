"""Positions in time or text where an intervention acts: read from positions, tokens, seconds, words or masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.indices import is_boolean, is_integer, read_indices
from hooked_whisper.audio import TimeMap
from hooked_whisper.errors import PatchError, check_option
from hooked_whisper.hooks import HookPoint
from hooked_whisper.model import WhisperCore
from hooked_whisper.protocols import Interval, Positions

UNITS = ("positions", "seconds")
EVERYWHERE = Positions(None)
SpanLike = int | float | slice | Interval | Positions | tuple[int | float, int | float]
PositionsLike = SpanLike | Sequence[SpanLike] | Sequence[bool] | range | np.ndarray | Tensor | None


def read_positions(
    positions: PositionsLike,
    unit: str = "positions",
    *,
    n: int | None = None,
    time: TimeMap | None = None,
    label: str = "",
) -> Positions:
    """Read the spans that a user's positions describe.

    Args:
        positions: ``None`` (everywhere); a half-open span as a tuple ``(start, stop)``, a slice or
            ``Positions``; an :class:`Interval`, always in seconds (a word or phone of an alignment); one number; a
            list of those, a range, or an array or tensor of numbers; or a mask with one boolean per position, in a
            list, array or tensor. ``(3, 7)`` is four positions, ``[3, 7]`` is two.
        unit: ``"positions"`` (tokens in the decoder), or ``"seconds"``: every position that overlaps the span.
        n: number of positions or tokens, to check against.
        time: time map of the model (``model.time``), needed for seconds.
        label: name for figures; default: that of an interval or of ``Positions``.

    Raises:
        PatchError: a span ends before it starts or lies outside ``n``; ``unit`` is unknown; seconds without ``time``.
    """
    check_option("unit", unit, UNITS, PatchError)
    if positions is None:
        return Positions(None, label)
    if isinstance(positions, Positions):
        spans = positions.spans or ()
    else:
        mask_spans = _mask_spans(positions, n)
        entries = _entries(positions) if mask_spans is None else []
        spans = tuple(span for entry in entries for span in _spans(entry, unit, n, time)) + (mask_spans or ())
    for start, stop in spans:
        if not 0 <= start <= stop or (n is not None and stop > n):
            inside = "" if n is None else f" inside the {n} positions"
            raise PatchError(f"[{start}, {stop}) is not a span{inside}: give 0 <= start <= stop")
    label = label or getattr(positions, "label", "")
    return replace(positions, label=label) if isinstance(positions, Positions) else Positions(spans, label)


def point_positions(
    model: WhisperCore, point: HookPoint, positions: PositionsLike, unit: str = "positions"
) -> Positions:
    """Read positions at one hook point: decoder tokens, or encoder positions, which can also be given in seconds.

    Raises:
        PatchError: as :func:`read_positions`.
    """
    if has_tokens(point):
        return read_positions(positions, unit, n=model.cfg.decoder.n_ctx)
    n_ctx = model.cfg.encoder.n_ctx
    return read_positions(positions, unit, n=n_ctx, time=TimeMap(n_ctx=n_ctx))


def has_tokens(point: HookPoint) -> bool:
    """Whether a point's positions are decoder tokens. Keys and values of cross-attention are at encoder positions."""
    return not point.per_clip


def _entries(positions: Any) -> list[Any]:
    """Return the entries of a list, range, array or tensor; anything else is one entry."""
    is_collection = isinstance(positions, Iterable) and not isinstance(positions, tuple | str | Mapping)
    is_scalar = isinstance(positions, np.ndarray | Tensor) and positions.ndim == 0
    return list(positions) if is_collection and not is_scalar else [positions]


def _mask_spans(positions: object, n: int | None) -> tuple[tuple[int, int], ...] | None:
    """Return the spans of a mask (list, array or tensor with one boolean per position), or ``None`` for a non-mask."""
    if (
        not isinstance(positions, list | np.ndarray | Tensor)
        or getattr(positions, "ndim", 1) != 1
        or not len(positions)
    ):
        return None
    if not any(is_boolean(entry) for entry in (positions if isinstance(positions, list) else positions[:1])):
        return None
    size = len(positions) if n is None else n
    numbers = np.array(read_indices(positions, size, "positions", PatchError), dtype=int)
    starts = numbers[np.diff(numbers, prepend=-2) != 1]
    stops = numbers[np.diff(numbers, append=np.iinfo(int).max) != 1] + 1
    return tuple(zip(starts.tolist(), stops.tolist(), strict=True))


def _spans(entry: SpanLike, unit: str, n: int | None, time: TimeMap | None) -> tuple[tuple[int, int], ...]:
    """Return the spans of one entry, not yet checked."""
    if isinstance(entry, str):
        raise PatchError(
            f"{entry!r:.80} is a string, not a position: for a word, give its times by "
            f"interventions.find_word(alignment, {entry!r:.80})"
        )
    if isinstance(entry, Positions):
        if entry.spans is None and n is None:
            raise PatchError(f"{entry} in a list has no end: give spans, or None alone for everywhere")
        return ((0, n),) if entry.spans is None else entry.spans  # type: ignore[return-value]
    if isinstance(entry, Interval):
        entry, unit = (entry.start, entry.end), "seconds"
    if isinstance(entry, slice):
        if entry.step not in (None, 1) or (entry.stop is None and n is None):
            raise PatchError(f"{entry} is not a span: give slice(start, stop)")
        start, stop = (0 if entry.start is None else entry.start), (n if entry.stop is None else entry.stop)
        entry = (start, stop)  # type: ignore[assignment]
    if isinstance(entry, tuple) and len(entry) != 2:
        raise PatchError(
            f"{entry!r:.80} is not a span: a tuple is (start, stop); put several positions or spans into a list"
        )
    if unit == "seconds":
        return (_seconds_span(entry, time),)
    edges: tuple[Any, ...] = entry if isinstance(entry, tuple) else (entry,)
    if not all(is_integer(edge) for edge in edges):
        raise PatchError(f"{_shown(entry)} is not a whole position or a span of them: give unit='seconds' for seconds")
    first = int(edges[0])
    return ((first, int(edges[-1]) if isinstance(entry, tuple) else first + 1),)


def _seconds_span(entry: Any, time: TimeMap | None) -> tuple[int, int]:
    if time is None:
        raise PatchError("only encoder positions can be given in seconds: give decoder tokens by number")
    if not all(_is_time(edge) for edge in (entry if isinstance(entry, tuple) else (entry,))):
        raise PatchError(f"{_shown(entry)} is not a time in seconds or a span of them")
    if isinstance(entry, tuple):
        span = time.span(entry[0], entry[1], rounding="outer")
        return span.start, span.stop
    return time.position(entry), time.position(entry) + 1


def _is_time(x: object) -> bool:
    return is_integer(x) or isinstance(x, float | np.floating) or (isinstance(x, Tensor) and x.dim() == 0)


def _shown(entry: object) -> str:
    if isinstance(entry, tuple):
        return f"[{', '.join(map(str, entry))})"
    return f"{entry!r:.60} ({type(entry).__name__})"


def interval_spans(intervals: Sequence[Interval], time: TimeMap, margin: int = 0) -> tuple[Positions, ...]:
    """Return words or phones as encoder positions, each ``margin`` positions longer at both ends."""
    spans = [(interval.label, time.span(interval.start, interval.end, rounding="outer")) for interval in intervals]
    return tuple(
        Positions(((max(0, span.start - margin), min(time.n_ctx, span.stop + margin)),), label) for label, span in spans
    )


def window_spans(stop: int, size: int, start: int = 0) -> tuple[Positions, ...]:
    """Return windows of ``size`` encoder positions from ``start`` to ``stop``, labeled in seconds; the last one may be
    shorter."""
    edges = [(a, min(a + size, stop)) for a in range(start, stop, size)]
    seconds = TimeMap().seconds_per_position
    return tuple(Positions((edge,), _seconds_label((edge,), seconds)) for edge in edges)


def token_spans(labels: Sequence[str], start: int = 0) -> tuple[Positions, ...]:
    """Return one span per decoder token from index ``start``, labeled with its index and text."""
    return tuple(Positions(((i, i + 1),), f"{i} {text}") for i, text in enumerate(labels) if i >= start)


def span_label(positions: Positions, seconds_per_position: float | None = None) -> str:
    """Label for figures; without one, the spans: ``"3-7, 9-10"`` of tokens, ``"0.06-0.14 s"`` of encoder positions."""
    if positions.label or positions.spans is None:
        return positions.label or "all"
    if seconds_per_position is not None:
        return _seconds_label(positions.spans, seconds_per_position)
    return ", ".join(f"{start}-{stop}" for start, stop in positions.spans)


def _seconds_label(spans: Sequence[tuple[int, int]], seconds_per_position: float) -> str:
    times = (f"{start * seconds_per_position:.2f}-{stop * seconds_per_position:.2f}" for start, stop in spans)
    return f"{', '.join(times)} s"


def filled_positions(mel: Float[Tensor, "batch mel frame"]) -> tuple[int, ...]:
    """Return how many encoder positions each clip fills: up to the last frame that differs from the window's last one.

    Padding has the same value in every frame, so only the mel is needed. Digital silence at the end of a clip counts
    as padding. A window without a constant tail is full.
    """
    changes = (mel != mel[:, :, -1:]).any(1)  # [batch, frame]
    frames = torch.arange(1, mel.shape[2] + 1, device=mel.device)
    last = (changes * frames).amax(1)
    # in a full window only the last frame equals itself
    last = torch.where(last >= mel.shape[2] - 1, torch.full_like(last, mel.shape[2]), last)
    return tuple(int(n_frames) for n_frames in (last + 1) // 2)
