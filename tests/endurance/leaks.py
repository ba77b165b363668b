"""Whether something that is called again and again leaves anything behind."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import theilslopes

_FIELDS = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
_SMALL = 64  # bytes of one of Python's own blocks, about


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def in_use() -> int:
    """Bytes that nobody has given back: of the C library's allocator, which tensors are from, and of Python's own.

    What the process holds is no measure: freed memory stays with it, and takes up a leak for a long time.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd) + _SMALL * sys.getallocatedblocks()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Left:
    """bytes_per_call: slope of memory in use over the second half of the calls, with its 95 % interval.

    resident: bytes by which the process grew in the second half. tensors, threads, files: how many more there are.
    """

    bytes_per_call: float
    low: float
    high: float
    resident: int
    tensors: int
    threads: int
    files: int


def _counts() -> tuple[int, int, int, int]:
    gc.collect()
    with warnings.catch_warnings(action="ignore"):  # deprecated objects of torch, looked at
        tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    return resident(), tensors, threading.active_count(), len(os.listdir("/proc/self/fd"))


def left_by(call: Callable[[int], object], n: int, samples: int = 20) -> Left:
    """Call ``n`` times. The first half is not looked at: caches fill.

    Source of the slope: Theil-Sen, the median of slopes between all pairs, with its 95 % interval.
    """
    for number in range(n // 2):
        call(number)
    gc.unfreeze()  # what tests/conftest.py has frozen is counted too
    before = _counts()
    gc.freeze()  # collections of what the calls leave need not walk everything else
    steps, memory = [], []
    for number in range(n // 2, n):
        call(number)
        if (number - n // 2) % max(1, n // 2 // samples) == 0:
            gc.collect()
            steps.append(number)
            memory.append(in_use())
    slope, _, low, high = theilslopes(np.array(memory, float), np.array(steps, float))
    gc.unfreeze()
    after = _counts()
    gc.freeze()
    return Left(float(slope), float(low), float(high), *(b - a for a, b in zip(before, after, strict=True)))
