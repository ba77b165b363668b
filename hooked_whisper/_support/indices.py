"""Selections of positions, tokens, heads or units: one reader for every form in which they can be written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hooked_whisper.errors import ArgumentError
from hooked_whisper.protocols import Positions

Selection = int | slice | range | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | Positions
Indices = range | tuple[int, ...]


def is_integer(value: Any) -> bool:
    """Whether ``value`` is one whole number: Python's, numpy's or a tensor without axes, but no boolean."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and is_integer(value.item())
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def is_boolean(value: Any) -> bool:
    """Whether ``value`` is one boolean: Python's, numpy's or a tensor without axes."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and isinstance(value.item(), bool)
    return isinstance(value, bool | np.bool_)


def read_indices(
    selection: Any, size: int, what: str = "positions", error: type[Exception] = ArgumentError, clamp: bool = True
) -> Indices:
    """Return the indices that a selection means, from 0 to ``size - 1``.

    Args:
        selection: ``None`` (all); an integer; a slice or range; integers in a list, tuple, array or tensor; a mask
            in one of those, with one boolean per entry; or :class:`~hooked_whisper.protocols.Positions`. Negative
            numbers count from the end.
        size: number of entries.
        what: their name, for errors.
        error: type of the error.
        clamp: whether a slice may pass the end, as in Python.

    Returns:
        A range where the selection is one, else a tuple: in the order given, a mask in rising order.

    Raises:
        ``error``: an index out of range, a mask of another length, an empty list or mask, floats, anything else.
    """
    if selection is None:
        return range(size)
    if isinstance(selection, Positions):
        if not clamp and selection.spans and selection.stop > size:
            raise error(f"{_shown(selection)} is not inside the {size} {what}")
        selection = selection.indices(size)
    if isinstance(selection, slice):
        chosen: Indices = range(size)[_whole(selection, size, what, error, clamp)]
    elif is_integer(selection):
        number = _in_range(int(selection), size, what, error)
        chosen = range(number, number + 1)
    elif isinstance(selection, range):
        chosen = tuple(_in_range(k, size, what, error) for k in selection)
    else:
        chosen = _listed(selection, size, what, error)
    if not len(chosen) and not isinstance(selection, slice | range):  # theirs are meant
        raise error(f"{_shown(selection)} selects none of the {size} {what}: give at least one")
    return chosen


def take(x: Tensor, axis: int, indices: Indices) -> Tensor:
    """Return these entries of one axis: a view where they are a rising range, else a copy."""
    if isinstance(indices, range) and indices.step > 0:
        return x[(slice(None),) * axis + (slice(indices.start, indices.stop, indices.step),)]
    return x.index_select(axis, torch.tensor(tuple(indices), dtype=torch.long, device=x.device))


def _whole(selection: slice, size: int, what: str, error: type[Exception], clamp: bool) -> slice:
    ends = (selection.start, selection.stop, selection.step)
    if not all(end is None or is_integer(end) for end in ends) or (ends[2] is not None and int(ends[2]) == 0):
        raise error(f"{_shown(selection)}: start, stop and step of a slice of {what} are whole numbers, the step not 0")
    start, stop, step = (None if end is None else int(end) for end in ends)
    if not clamp and any(end is not None and not -size <= end <= size for end in (start, stop)):
        raise error(f"{_shown(selection)} is not inside the {size} {what}")
    return slice(start, stop, step)


def _listed(selection: Any, size: int, what: str, error: type[Exception]) -> tuple[int, ...]:
    if isinstance(selection, Tensor | np.ndarray) and selection.ndim == 1:
        entries = selection.tolist()
    elif isinstance(selection, Iterable) and not isinstance(selection, str | bytes | dict | Tensor | np.ndarray):
        entries = list(selection)
    else:
        raise error(f"{_shown(selection)} does not say which {what}: {_expected(size, what)}")
    if entries and all(is_boolean(entry) for entry in entries):
        if len(entries) != size:
            raise error(f"a mask of {what} has one boolean for each: {len(entries)} were given, there are {size}")
        return tuple(k for k, entry in enumerate(entries) if bool(entry))
    if not all(is_integer(entry) for entry in entries):
        wrong = next(entry for entry in entries if not is_integer(entry))
        raise error(f"{wrong!r:.80} in {_shown(selection)} is not a number of {what}: {_expected(size, what)}")
    return tuple(_in_range(int(entry), size, what, error) for entry in entries)


def _in_range(number: int, size: int, what: str, error: type[Exception]) -> int:
    if not -size <= number < size:
        kind, of, whole = what.partition(" of ")
        one = re.sub(r"s\b", "", kind, count=1)
        raise error(f"there is no {one} {number}{of}{whole}: they are 0 to {size - 1}")
    return number % size


def _expected(size: int, what: str) -> str:
    return f"give whole numbers from 0 to {size - 1}, a slice, or a mask of {size} booleans"


def _shown(selection: Any) -> str:
    if isinstance(selection, Tensor | np.ndarray):
        return f"a {type(selection).__name__} {selection.dtype} {list(selection.shape)}"
    return f"{selection!r:.80}"
