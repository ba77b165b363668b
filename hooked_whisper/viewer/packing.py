"""Attention maps as 16-bit numbers, compressed, as text for a page."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVELS = 2**16 - 1


@dataclass(frozen=True)
class PackedMap:
    """One array from 0 to its largest value, in steps of 1/65535 of it.

    Attributes:
        shape: of the array.
        largest: its largest value.
        text: base64 of the zlib-compressed numbers, all low bytes before all high bytes, which compresses better.
    """

    shape: tuple[int, ...]
    largest: float
    text: str

    @classmethod
    def pack(cls, values: Float[np.ndarray, "..."], largest: float | int = 0.0) -> PackedMap:
        """Pack nonnegative values, in steps of 1/65535 of their largest or of ``largest``, if that is larger."""
        largest = max(float(values.max(initial=0.0)), float(largest))
        numbers = np.ascontiguousarray(np.rint(values / (largest or 1.0) * LEVELS).astype("<u2"))
        planes = numbers.view(np.uint8).reshape(-1, 2).T.tobytes()
        return cls(values.shape, largest, base64.b64encode(zlib.compress(planes, 6)).decode("ascii"))

    def values(self) -> Float[np.ndarray, "..."]:
        """Return the values as the page shows them."""
        planes = np.frombuffer(zlib.decompress(base64.b64decode(self.text)), np.uint8)
        numbers = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2")
        return (numbers.astype(np.float64) * (self.largest / LEVELS)).reshape(self.shape)
