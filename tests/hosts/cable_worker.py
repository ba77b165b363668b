"""Sums with the other host until it does not answer: ``torchrun ... -m tests.hosts.cable_worker FOLDER``."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch

from hooked_whisper._support.ranks import torchrun_ranks

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    with torchrun_ranks(torch.device("cpu"), patience=timedelta(seconds=10)) as group:
        assert group is not None
        try:
            while True:
                group.sum(torch.ones(1000))
                (folder / f"at-work-{rank}").touch()
        except RuntimeError:
            (folder / f"gave-up-{rank}").touch()
            os._exit(1)  # what is left of the group cannot be taken apart in order
