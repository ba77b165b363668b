"""Spectrograms as PNG with a palette, which a browser shows and prints without a script."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from jaxtyping import Float

_LEVELS = 16  # 4 bits take half the bytes of 8, without visible banding
_PALETTE = "magma"


def mel_png(mel: Float[np.ndarray, "mel frame"]) -> bytes:
    """PNG of ``frame`` x ``mel`` pixels, low frequencies at the bottom, colors from smallest to largest value."""
    from PIL import Image

    low, high = float(mel.min()), float(mel.max())
    levels = np.rint((mel - low) / ((high - low) or 1.0) * (_LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]), mode="P")
    image.putpalette(_palette())
    stream = io.BytesIO()
    image.save(stream, format="PNG", bits=4, optimize=True)
    return stream.getvalue()


@cache
def _palette() -> bytes:
    from matplotlib import colormaps

    rgba = colormaps[_PALETTE](np.linspace(0, 1, _LEVELS), bytes=True)
    return bytes(np.asarray(rgba, np.uint8)[:, :3].tobytes())
