"""A matrix of activations that may exceed the memory: written clip by clip, read by blocks of features.

Small matrices stay in memory. Others are in an unnamed temporary file, which the operating system removes with the
process. The file is read rather than memory-mapped, so that its pages do not count as the process's memory.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from io import FileIO
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.errors import CacheSizeError, PatchError

log = logging.getLogger(__name__)
MEMORY = 384 << 20  # bytes: larger matrices go to disk
STRIP = 128  # adjacent features in the file: a block of features is one contiguous range per strip
_SPARE = 1 << 30  # bytes of the disk to leave free
_FLOAT = 4  # bytes


def matrix_bytes(n_rows: int, n_features: int) -> int:
    return n_rows * n_features * _FLOAT


def check_disk(need: int, content: str, folder: Path | None = None) -> None:
    """Check that a matrix of ``need`` bytes fits on the disk, and log its size. ``content`` names it in messages.

    Raises:
        CacheSizeError: the folder for temporary files would have less than 1 GiB left.
    """
    directory = Path(tempfile.gettempdir()) if folder is None else folder
    free = shutil.disk_usage(directory).free
    if free < need + _SPARE:
        raise CacheSizeError(
            f"{content} take {need / 2**30:.1f} GiB of temporary files; {directory} has {free / 2**30:.1f} GiB free, "
            "and 1 GiB must stay free: give fewer clips or hook points, or set TMPDIR to a larger disk"
        )
    log.log(
        logging.WARNING if need >= _SPARE else logging.INFO,
        "%s: %.2f GiB in temporary files under %s (%.1f GiB free)", content, need / 2**30, directory, free / 2**30,
    )  # fmt: skip


class Spool:
    """A float32 matrix ``[row, feature]``.

    Args:
        on_disk: keep it in a temporary file of ``n_rows * n_features * 4`` bytes; see :func:`check_disk`.
        folder: for the temporary file (default: the system's, ``TMPDIR``).
    """

    def __init__(self, n_rows: int, n_features: int, *, on_disk: bool = False, folder: Path | None = None) -> None:
        self.n_rows, self.n_features = n_rows, n_features
        self.on_disk = on_disk
        self._file: FileIO | None = None
        if on_disk:  # open until close()
            self._file = cast(FileIO, tempfile.TemporaryFile(dir=folder, buffering=0))  # noqa: SIM115
        self._matrix = None if on_disk else torch.empty(n_rows, n_features)

    def write(self, start: int, rows: Float[Tensor, "row feature"]) -> None:
        """Write rows from index ``start`` on.

        Raises:
            PatchError: the width differs, or the rows exceed the matrix.
            CacheSizeError: the disk is full.
        """
        n, width = rows.shape
        if width != self.n_features or not 0 <= start <= self.n_rows - n:
            raise PatchError(
                f"{n} rows of {width} features at row {start} do not fit {self.n_rows} rows of {self.n_features}"
            )
        values = rows.detach().to(device="cpu", dtype=torch.float32)
        if self._matrix is not None:
            self._matrix[start : start + n] = values
            return
        for first, last in self._strips(slice(0, self.n_features)):
            part = np.ascontiguousarray(values[:, first:last].numpy())
            self._put(part, self._offset(first, last, start))

    def rows(self, start: int, stop: int) -> Float[Tensor, "row feature"]:
        """All features of some rows."""
        return self._read(slice(0, self.n_features), start, stop)

    def columns(self, features: slice) -> Float[Tensor, "row feature"]:
        """Some features of all rows; the slice has a start and a stop."""
        return self._read(features, 0, self.n_rows)

    def close(self) -> None:
        """Free memory and disk. The matrix cannot be read afterwards."""
        self._matrix = None
        if self._file is not None:
            self._file.close()

    def _read(self, features: slice, start: int, stop: int) -> Tensor:
        if self._matrix is not None:
            return self._matrix[start:stop, features]
        block = np.empty((stop - start, features.stop - features.start), dtype=np.float32)
        for first, last in self._strips(features):
            part = self._get((stop - start, last - first), self._offset(first, last, start))
            low, high = max(first, features.start), min(last, features.stop)
            block[:, low - features.start : high - features.start] = part[:, low - first : high - first]
        return torch.from_numpy(block)

    def _strips(self, features: slice) -> list[tuple[int, int]]:
        """First and last (exclusive) feature of each strip that overlaps the slice."""
        starts = range(features.start // STRIP * STRIP, features.stop, STRIP)
        return [(first, min(first + STRIP, self.n_features)) for first in starts]

    def _offset(self, first: int, last: int, row: int) -> int:
        return (first * self.n_rows + row * (last - first)) * _FLOAT

    def _put(self, part: np.ndarray, offset: int) -> None:
        assert self._file is not None
        data = part.reshape(-1).view(np.uint8).data
        try:
            self._file.seek(offset)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise CacheSizeError(
                f"a temporary file of {matrix_bytes(self.n_rows, self.n_features) / 2**30:.1f} GiB cannot be written: "
                f"{error}; give fewer clips or hook points, or set TMPDIR to a larger disk"
            ) from error

    def _get(self, shape: tuple[int, int], offset: int) -> np.ndarray:
        assert self._file is not None
        part = np.empty(shape, dtype=np.float32)
        data = part.reshape(-1).view(np.uint8).data
        self._file.seek(offset)
        while data:
            count = self._file.readinto(data)
            if not count:
                raise CacheSizeError("a temporary file of activations is too short: write all rows before reading them")
            data = data[count:]
        return part
