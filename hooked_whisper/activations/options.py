"""Which part of a window the encoder runs on, and which positions have rows."""

from __future__ import annotations

from typing import Literal, get_args

from hooked_whisper.errors import HookedWhisperError, check_option

Padding = Literal["drop", "keep"]
WindowSize = Literal["full", "sound"]


def check_windows(padding: Padding, window: WindowSize, margin: int) -> None:
    """Check the options of a stream together.

    Raises:
        HookedWhisperError: an unknown value, ``padding="keep"`` with ``window="sound"`` or with a margin.
    """
    check_option("padding", padding, get_args(Padding))
    check_option("window", window, get_args(WindowSize))
    if padding == "keep" and window == "sound":
        raise HookedWhisperError("window='sound' computes no padding that could be kept: use padding='drop'")
    if padding == "keep" and margin:
        raise HookedWhisperError(f"margin={margin} needs padding that is dropped: use padding='drop', or margin=0")
