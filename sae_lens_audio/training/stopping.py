"""Stops asked for by Ctrl-C or a scheduler, taken between two steps: what is written then is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked."""

    def __init__(self) -> None:
        self.asked = False
        self.since = 0.0

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if so: call it where stopping does no harm."""
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def between_steps(grace_s: float | int = 0.0) -> Iterator[Stop]:
    """SIGINT and SIGTERM are noted instead of raised; one more after ``grace_s`` seconds is raised at once. Threads get
    no signals.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.asked and now - stop.since >= grace_s:
            raise KeyboardInterrupt
        if not stop.asked:
            stop.asked, stop.since = True, now

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
