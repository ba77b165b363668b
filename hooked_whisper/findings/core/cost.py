"""Wall time and peak memory of an experiment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Cost:
    """Wall time in seconds, and the largest resident memory of the whole process in MiB, model included. ``peak_mib``
    is ``None`` on systems other than Linux."""

    seconds: float = 0.0
    peak_mib: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Yield a :class:`Cost` that is filled in when the block ends, also if it raises."""
    cost = Cost()
    can_reset = _reset_peak()
    began = time.monotonic()
    try:
        yield cost
    finally:
        cost.seconds = round(time.monotonic() - began, 1)
        cost.peak_mib = _peak() if can_reset else None


def _reset_peak() -> bool:
    try:
        _RESET_PEAK.write_text("5")  # see proc(5): resets the peak resident set size of this process
    except OSError:
        return False
    return True


def _peak() -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((float(round(int(line.split()[1]) / 1024)) for line in lines if line.startswith("VmHWM")), None)
