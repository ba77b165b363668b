"""Peak memory of this process, and an allocator that returns freed memory to the system at once (Linux)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# glibc keeps freed memory for reuse, and adapts the size above which it returns blocks to the system. After a warm-up
# run, work would then seem to need no memory. A fixed threshold returns every block of 128 KiB or more at once.
RETURNED_AT_ONCE = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def return_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def peak_reset() -> None:
    """Let ``status_mib("VmHWM")`` count from here."""
    Path("/proc/self/clear_refs").write_text("5")


def status_mib(field: str) -> float:
    """Return ``"VmRSS"`` (memory) or ``"VmHWM"`` (its peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
