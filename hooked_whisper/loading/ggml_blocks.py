"""Dequantize ggml's blocks of 32 weights: q4_0, q4_1, q5_0, q5_1 and q8_0.

Layout (little-endian), as ``ggml-common.h`` declares it: a float16 scale ``d``; a float16 minimum ``m`` in the ``_1``
types; 32 high bits in the five-bit types; then 16 bytes: byte ``j`` holds the low four bits of weight ``j`` and, in its
upper half, of weight ``j + 16``; q8_0 holds 32 signed bytes. A weight is ``d * (q - offset)``, or ``d * q + m``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

BLOCK = 32  # weights


@dataclass(frozen=True)
class BlockType:
    """One way to store 32 weights.

    ``bits`` is per weight. ``has_minimum``: values are unsigned, above a stored minimum, instead of centered on zero.
    """

    name: str
    bits: int
    has_minimum: bool

    @property
    def n_bytes(self) -> int:
        """Bytes per block."""
        return 2 * (1 + self.has_minimum) + BLOCK * self.bits // 8

    def dequantize(self, data: memoryview | bytes) -> Float[np.ndarray, "weight"]:
        """Return the weights of complete blocks as float32.

        Raises:
            ValueError: the length is not a multiple of ``n_bytes``, or a scale or minimum is not finite.
        """
        blocks = np.frombuffer(data, np.uint8).reshape(-1, self.n_bytes)
        n_numbers = 1 + self.has_minimum
        numbers = blocks[:, : 2 * n_numbers].copy().view("<f2").astype(np.float32)  # [block, scale and minimum]
        if not np.isfinite(numbers).all():
            raise ValueError(f"a {self.name} block has a scale that is not finite")
        weights = self._integers(blocks[:, 2 * n_numbers :]).astype(np.float32)
        weights *= numbers[:, :1]
        if self.has_minimum:
            weights += numbers[:, 1:]
        return weights.reshape(-1)

    def _integers(self, packed: UInt8[np.ndarray, "block byte"]) -> Int[np.ndarray, "block weight"]:
        if self.bits == 8:
            return packed.view(np.int8)
        nibbles = packed[:, -BLOCK // 2 :]
        values = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=1).view(np.int8)
        if self.bits == 5:
            values |= np.unpackbits(packed[:, :4], axis=1, bitorder="little").view(np.int8) << np.int8(4)
        return values if self.has_minimum else values - np.int8(1 << (self.bits - 1))


# by ggml's type number
BLOCK_TYPES = {
    2: BlockType("q4_0", 4, False),
    3: BlockType("q4_1", 4, True),
    6: BlockType("q5_0", 5, False),
    7: BlockType("q5_1", 5, True),
    8: BlockType("q8_0", 8, False),
}
