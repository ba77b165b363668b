"""Pieces of a file that a decoder reads as separate files, without copying the audio."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

from hooked_whisper.errors import AudioError

Span = tuple[int, int]
"""First byte, and the byte after the last."""


@runtime_checkable
class Seekable(Protocol):
    """A seekable file in binary mode."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class Spliced(io.RawIOBase):
    """A read-only file composed of bytes and spans of another file.

    Several instances may share a file: each seeks before it reads.
    """

    def __init__(self, stream: Seekable, parts: Sequence[bytes | Span]) -> None:
        self._stream = stream
        self._parts = [part for part in parts if _length(part)]
        self._ends = list(accumulate(map(_length, self._parts)))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        size = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer across parts; return fewer bytes only at the end."""
        target = memoryview(buffer).cast("B")
        filled = 0
        number = bisect_right(self._ends, self._position)
        while filled < len(target) and number < len(self._parts):
            part = self._parts[number]
            skip = self._position - (self._ends[number] - _length(part))
            wanted = min(len(target) - filled, _length(part) - skip)
            if isinstance(part, bytes):
                content = part[skip : skip + wanted]
            else:
                self._stream.seek(part[0] + skip)
                content = self._stream.read(wanted)
                if not content:
                    break
            target[filled : filled + len(content)] = content
            filled += len(content)
            self._position += len(content)
            number += self._position >= self._ends[number]
        return filled


def _length(part: bytes | Span) -> int:
    return len(part) if isinstance(part, bytes) else max(0, part[1] - part[0])


@dataclass(frozen=True)
class Piece:
    """A part of a file that libsndfile decodes as a separate file.

    Attributes:
        n_frames: samples per channel, if libsndfile does not know it.
        slack: number of samples that may be missing, such as those of an encoder's delay.
    """

    stream: Seekable
    n_frames: int | None = None
    slack: int = 0


def size_of(stream: Seekable) -> int:
    """Return the size in bytes and seek to the start."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def read_at(stream: Seekable, offset: int, n: int) -> bytes:
    """Read ``n`` bytes at an offset; fewer at the end of the file."""
    stream.seek(offset)
    return stream.read(n)


def truncated(name: str, seconds: float, missing: float | None = None, *, at_least: bool = False) -> AudioError:
    """Return the error for a file whose end is missing, with the seconds present and, if known, the seconds missing."""
    ending = f"it ends after {max(0.0, seconds):.2f} s"
    shortfall = "" if missing is None else f", {'at least ' if at_least else ''}{max(0.01, missing):.2f} s are missing"
    return AudioError(
        f"{name} is truncated, {ending}{shortfall}: fetch it again, or pass the part that soundfile.read returns as "
        "(array, rate)"
    )


def broken(name: str, why: str) -> AudioError:
    return AudioError(f"{name} is broken or truncated ({why}): fetch or convert it again")
