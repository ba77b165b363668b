"""One of several processes that collect activations.

``torchrun ... -m tests.sae.activations.rank_worker FOLDER [RANK FILES]``

With ``RANK`` and ``FILES`` this rank kills itself with SIGKILL once it has written so many files, the first time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from hooked_whisper._support.ranks import TorchRanks, torchrun_ranks
from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations, collecting
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, corpus

OPTIONS = CollectOptions(shard_rows=90, batch=2, part=3)


def run(folder: Path, ranks: TorchRanks | None = None) -> ActivationStore:
    return collect_activations(small_model(0), corpus(), [NEURONS, RESID], folder, OPTIONS, progress=False, ranks=ranks)


def killed_after(marker: Path, files: int) -> None:
    real, written = collecting.write_atomic, []

    def write(path: Path, data: bytes) -> None:
        real(path, data)
        written.append(path)
        if len(written) == files and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    collecting.write_atomic = write


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2 and os.environ["RANK"] == sys.argv[2]:
        killed_after(folder.with_name("killed"), int(sys.argv[3]))
    with torchrun_ranks(torch.device("cpu")) as group:
        run(folder, group)
