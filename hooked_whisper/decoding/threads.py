"""Keep the number of threads during openai-whisper's word timing.

Its parallel numba code permanently changes torch's number of threads, and idle threads spin. One thread is faster here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_kept() -> Iterator[None]:
    """Run numba with one thread inside the context, and restore the threads of numba and torch after it."""
    import numba

    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(of_numba)
        torch.set_num_threads(of_torch)
