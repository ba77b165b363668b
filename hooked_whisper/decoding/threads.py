"""openai-whisper's word timing runs numba in parallel, which changes torch's number of threads for good, and whose idle
threads spin. The warping is tiny: one thread is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_kept() -> Iterator[None]:
    """Within it numba has one thread; behind it numba and torch have as many as before."""
    import numba

    of_torch, of_numba = torch.get_num_threads(), numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(of_numba)
        torch.set_num_threads(of_torch)
