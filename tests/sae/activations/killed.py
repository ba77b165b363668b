"""A process that collects activations, for tests to kill: ``python -m tests.sae.activations.killed FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sae_lens_audio.activations import ActivationStore, CollectOptions, collect_activations
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, corpus

CLIPS = 120


def run(folder: Path) -> ActivationStore:
    options = CollectOptions(shard_rows=150, batch=3)
    return collect_activations(small_model(0), corpus(CLIPS), [NEURONS, RESID], folder, options, progress=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
