"""Decode G.722 telephone prompts (``.g722``): 64 kbit/s without a header, recognized by the file name's suffix."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16

from hooked_whisper.errors import AudioError, MissingExtraError

ENDING = ".g722"
_RATE, _BITS = 16_000, 64_000
BYTES_PER_SECOND = _BITS // 8


def decode_g722(content: bytes, name: str) -> tuple[Int16[np.ndarray, "sample"], int]:
    """Decode to samples at 16 kHz, two per byte.

    Raises:
        AudioError: the file is empty.
        MissingExtraError: the decoder is not installed.
    """
    try:
        from G722 import G722
    except ImportError:
        raise MissingExtraError(f"{name} is G.722, which needs a decoder: pip install hooked-whisper[g722]") from None
    if not content:
        raise AudioError(f"{name} is empty (0 bytes): fetch or record it again")
    return np.asarray(G722(_RATE, _BITS).decode(content), np.int16), _RATE
