"""One of several processes that train together: ``torchrun ... -m tests.sae.training.rank_worker FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from hooked_whisper._support.ranks import TorchRanks
from sae_lens_audio import BatchTopK, BatchTopKConfig, Matryoshka, MatryoshkaConfig, TopK, TopKConfig
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import SAE
from sae_lens_audio.training import Trainer, TrainingConfig, torchrun_ranks
from tests.sae.training.sources import D, F, mixtures

CONFIG = TrainingConfig(steps=25, batch=60, lr=1e-2, dead_after=300, resample_every=0)


def saes() -> list[SAE]:
    return [
        TopK(TopKConfig(D, F, k=3)),
        BatchTopK(BatchTopKConfig(D, F, k=3)),
        Matryoshka(MatryoshkaConfig(D, F, k=3, widths=(10, F))),
    ]


def train_all(folder: Path, ranks: TorchRanks | None) -> None:
    for sae in saes():
        blocks = TensorActivations(mixtures())
        Trainer(sae, blocks, CONFIG, folder / sae.architecture, ranks=ranks, log_every=5).fit(progress=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torchrun_ranks(torch.device("cpu")) as group:
        train_all(Path(sys.argv[1]), group)
