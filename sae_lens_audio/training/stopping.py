"""Stopping between two training steps on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal requested a stop (``requested``), and when (``since``)."""

    def __init__(self) -> None:
        self.requested = False
        self.since = 0.0

    def check(self) -> None:
        """
        Raises:
            KeyboardInterrupt: a stop was requested. Call this where stopping is safe.
        """
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def between_steps(grace_s: float | int = 0.0) -> Iterator[Stop]:
    """Record SIGINT and SIGTERM instead of raising; a second signal after ``grace_s`` seconds raises immediately.

    Only the main thread receives signals; in other threads this does nothing.
    """
    stop = Stop()

    def record(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.requested and now - stop.since >= grace_s:
            raise KeyboardInterrupt
        if not stop.requested:
            stop.requested, stop.since = True, now

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, record) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
