"""A pseudo-random number for every position of a corpus, the same in every run and on every machine.

The positions with the smallest numbers are a uniform sample without replacement that needs no random state. It is the
same whether a scan ran without interruption, was resumed, or was split over machines.

Source: bottom-k sketches, Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches".
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max  # larger than every priority

_STEP, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def priorities(recording: str, positions: range, seed: int) -> Int[Tensor, "position"]:
    """Return a number of at least 0 per position: splitmix64 (Steele et al. 2014) of seed, recording and position."""
    digest = hashlib.blake2b(f"{seed}\0{recording}".encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(digest, "little"))
    with np.errstate(over="ignore"):
        z = start + _STEP * (np.arange(positions.start, positions.stop, dtype=np.uint64) + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(1)
    return torch.from_numpy(z.astype(np.int64))
