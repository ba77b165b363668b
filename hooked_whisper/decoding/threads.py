"""Preserve torch's thread count during openai-whisper's word timing.

Its parallel numba code permanently changes torch's thread count, and idle threads spin. One thread is faster here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_kept() -> Iterator[None]:
    """Run numba with one thread inside the context, and restore the threads of numba and torch after it."""
    import numba

    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(numba_threads)
        torch.set_num_threads(torch_threads)
