"""One of several processes of a scan: ``torchrun ... -m tests.features.scan.rank_worker FOLDER [KILLED CHUNKS]``.

With ``KILLED`` and ``CHUNKS`` this rank kills itself with SIGKILL once it has written so many chunks, the first time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from hooked_whisper._support.ranks import torchrun_ranks
from hooked_whisper.features.scan import scan
from hooked_whisper.features.scan.states import StateFiles
from tests.features.scan.test_scanner import NEURONS, OPTIONS, corpus
from tests.findings.worlds import small_model


def killed_after(marker: Path, chunks: int) -> None:
    real = StateFiles.write

    def write(self: StateFiles, name: str, readers: list, progress: object) -> None:
        real(self, name, readers, progress)  # type: ignore[arg-type]
        if len(progress.chunks) >= chunks and not marker.exists():  # type: ignore[attr-defined]
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    StateFiles.write = write  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2 and os.environ["RANK"] == sys.argv[2]:
        killed_after(folder.with_name("killed"), int(sys.argv[3]))
    with torchrun_ranks(torch.device("cpu")) as group:
        scan(small_model(0), corpus(), [NEURONS], folder, OPTIONS, progress=False, checkpoint_s=0, ranks=group)
