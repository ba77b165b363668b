"""Read selections of positions, tokens, heads or units, in any form in which they can be written."""

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
    """Return whether ``value`` is one integer (Python, numpy, or a tensor without axes), and not a boolean."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and is_integer(value.item())
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def is_boolean(value: Any) -> bool:
    """Return whether ``value`` is one boolean: Python, numpy, or a tensor without axes."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 and isinstance(value.item(), bool)
    return isinstance(value, bool | np.bool_)


def read_indices(
    selection: Any, size: int, what: str = "positions", error: type[Exception] = ArgumentError, clamp: bool = True
) -> Indices:
    """Return the indices, from 0 to ``size - 1``, that a selection means.

    Args:
        selection: ``None`` (all); an integer; a slice or range; integers in a list, tuple, array or tensor; a mask
            in one of those, with one boolean per entry; or :class:`~hooked_whisper.protocols.Positions`. Negative
            numbers count from the end.
        size: number of entries.
        what: their name, for errors.
        error: type of the error.
        clamp: whether a slice may exceed the end, as in Python.

    Returns:
        A range if the selection is an integer or a slice, else a tuple in the order given (a mask: ascending).

    Raises:
        ``error``: an index is out of range, a mask has another length, a list or mask is empty, or the selection has
            another form.
    """
    if selection is None:
        return range(size)
    if isinstance(selection, Positions):
        if not clamp and selection.spans and selection.stop > size:
            raise error(f"{_shown(selection)} is not inside the {size} {what}")
        selection = selection.indices(size)
    if isinstance(selection, slice):
        indices: Indices = range(size)[_whole(selection, size, what, error, clamp)]
    elif is_integer(selection):
        number = _in_range(int(selection), size, what, error)
        indices = range(number, number + 1)
    elif isinstance(selection, range):
        indices = tuple(_in_range(k, size, what, error) for k in selection)
    else:
        indices = _listed(selection, size, what, error)
    if not len(indices) and not isinstance(selection, slice | range):  # an empty slice is intended
        raise error(f"{_shown(selection)} selects none of the {size} {what}: give at least one")
    return indices


def take(x: Tensor, axis: int, indices: Indices) -> Tensor:
    """Return these entries of one axis: a view for an ascending range, else a copy."""
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
        singular = re.sub(r"s\b", "", kind, count=1)
        raise error(f"there is no {singular} {number}{of}{whole}: they are 0 to {size - 1}")
    return number % size


def _expected(size: int, what: str) -> str:
    return f"give whole numbers from 0 to {size - 1}, a slice, or a mask of {size} booleans"


def _shown(selection: Any) -> str:
    if isinstance(selection, Tensor | np.ndarray):
        return f"a {type(selection).__name__} {selection.dtype} {list(selection.shape)}"
    return f"{selection!r:.80}"
