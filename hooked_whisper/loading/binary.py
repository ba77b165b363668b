"""Read numbers, names and tensors from a memory-mapped binary file, checking every length before use."""

from __future__ import annotations

import math
import mmap
import struct
import sys
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from hooked_whisper._support.files import reason
from hooked_whisper.errors import CheckpointError

MAX_NAME_BYTES = 256  # the longest name of a Whisper tensor has about 60
MAX_TENSORS = 20_000  # large-v3 with one scale per weight has about 2,000
MAX_RANK = 3


class BinaryCursor:
    """A position in one little-endian file, or in several parts read as if they were joined.

    The parts are mapped copy-on-write: tensors share the mapped pages, and writing to them does not change the file.
    Only data that spans two parts is copied. Tensors need not be aligned to their item size: x86-64 and arm64 support
    unaligned reads.

    Raises:
        CheckpointError: a part cannot be mapped, or a read goes past the end. The message names the file.
    """

    def __init__(self, parts: Sequence[Path], source: str) -> None:
        self.source = source
        if sys.byteorder != "little":
            raise CheckpointError(f"{source} is little-endian; this {sys.byteorder}-endian machine cannot map it")
        if not parts:
            raise CheckpointError(f"{source} has no parts: give at least one file")
        self._views = [_mapped(part) for part in parts]
        self._ends = list(accumulate(len(view) for view in self._views))
        self.position = 0

    @property
    def size(self) -> int:
        return self._ends[-1]

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def error(self, problem: str) -> CheckpointError:
        """Return an error that names the file and the problem."""
        return CheckpointError(f"{self.source}: {problem}")

    def take(self, n_bytes: int, content: str) -> memoryview:
        """Return the next ``n_bytes``, copied only if they span two parts. ``content`` names them in the error."""
        if n_bytes < 0:
            raise self.error(f"{content} at byte {self.position} has the negative length {n_bytes}; {_REFETCH}")
        if n_bytes > self.remaining:
            raise self.error(
                f"truncated: {content} at byte {self.position} needs {n_bytes} bytes, {self.remaining} are left; "
                + _REFETCH
            )
        start, stop = self.position, self.position + n_bytes
        self.position = stop
        part = bisect_right(self._ends, start)
        if part == len(self._ends):
            return memoryview(b"")
        begin = self._ends[part - 1] if part else 0
        if stop <= self._ends[part]:
            return self._views[part][start - begin : stop - begin]
        joined = bytearray()
        while start < stop:
            begin = self._ends[part - 1] if part else 0
            joined += self._views[part][start - begin : stop - begin]
            start, part = self._ends[part], part + 1
        return memoryview(joined)

    def number(self, code: str, content: str) -> int:
        """Read one integer with a ``struct`` code (``"B"``, ``"H"``, ``"I"``, ``"i"``)."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), content))[0]
        return value

    def count(self, code: str, content: str, most: int) -> int:
        """Read an integer in ``0..most``."""
        value = self.number(code, content)
        if not 0 <= value <= most:
            raise self.error(f"{content} at byte {self.position} is {value}, expected 0 to {most}; {_REFETCH}")
        return value

    def name(self, n_bytes: int, content: str) -> str:
        """Read a printable UTF-8 name of ``n_bytes``."""
        if n_bytes > MAX_NAME_BYTES:
            raise self.error(f"{content} at byte {self.position} claims {n_bytes} bytes, at most {MAX_NAME_BYTES} fit")
        raw = bytes(self.take(n_bytes, content))
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{content} {raw!r} is not UTF-8; {_REFETCH}") from None
        if not name.isprintable():
            raise self.error(f"{content} {name!r} is not printable; {_REFETCH}")
        return name

    def shape(self, code: str, rank: int, content: str) -> tuple[int, ...]:
        """Read ``rank`` positive sizes, and check that the rest of the file has at least one bit per element."""
        if not 0 <= rank <= MAX_RANK:
            raise self.error(f"{content} has rank {rank}, expected at most {MAX_RANK}")
        shape = tuple(self.number(code, f"a dimension of {content}") for _ in range(rank))
        if any(size < 1 for size in shape):
            raise self.error(f"{content} has shape {shape}, expected positive sizes")
        if math.prod(shape) > 8 * self.remaining:
            raise self.error(
                f"truncated: {content} has shape {shape}, but only {self.remaining} bytes are left; {_REFETCH}"
            )
        return shape

    def tensor(self, dtype: torch.dtype, shape: Sequence[int], content: str) -> Tensor:
        """Return a tensor of ``shape`` that shares the mapped file."""
        data = self.take(math.prod(shape) * dtype.itemsize, content)
        return torch.frombuffer(data, dtype=dtype).reshape(tuple(shape))

    def skip_entries(self, n: int, content: str) -> None:
        """Skip ``n`` byte strings, each preceded by its length as a 32-bit number."""
        start, position = self.position, 0
        content_left, self.position = self.take(self.remaining, content), start
        for _ in range(n):  # a vocabulary has 50,000 entries: avoid method calls
            stop = position + 4
            length = int.from_bytes(content_left[position:stop], "little")
            if stop + length > len(content_left):
                raise self.error(
                    f"truncated: {content} at byte {start + position} needs {4 + length} bytes, "
                    f"{len(content_left) - position} are left; {_REFETCH}"
                )
            position = stop + length
        self.position = start + position

    def finish(self) -> None:
        """Check that the end of the file is reached."""
        if self.remaining:
            raise self.error(f"{self.remaining} bytes follow the end of the model at byte {self.position}; {_REFETCH}")


_REFETCH = "fetch the file again"


def first_bytes(path: Path, n: int) -> bytes:
    """Return the first ``n`` bytes of a file: fewer if it is shorter, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(n)
    except OSError:
        return b""


def _mapped(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise CheckpointError(f"{path} is empty; {_REFETCH}")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read ({reason(error)})") from None
