"""Several processes train the same SAE as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from sae_lens_audio import load_sae
from sae_lens_audio.training import read_metrics
from tests.sae.training.rank_worker import saes, train_all
from tests.sae.training.sources import mixtures


def test_two_processes_train_the_same_sae_as_one(tmp_path: Path) -> None:
    """Real processes, started by torchrun, with gloo."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "tests.sae.training.rank_worker", str(tmp_path / "two")]
    done = subprocess.run([*launch, *worker], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    train_all(tmp_path / "one", None)
    for sae in saes():
        alone, together = (load_sae(tmp_path / n / sae.architecture / "sae").sae for n in ("one", "two"))
        for (name, a), b in zip(alone.state_dict().items(), together.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4, msg=lambda m, name=name: f"{name}: {m}")
        x = mixtures(100, seed=3)
        torch.testing.assert_close(alone(x), together(x), atol=2e-3, rtol=1e-3)
        ones, twos = (read_metrics(tmp_path / n / sae.architecture) for n in ("one", "two"))
        assert [line["step"] for line in ones] == [line["step"] for line in twos]
        for key in ("reconstruction", "l0", "explained_variance", "gradient_norm"):
            torch.testing.assert_close(
                torch.tensor([line[key] for line in ones]),
                torch.tensor([line[key] for line in twos]),
                rtol=1e-3,
                atol=1e-3,
            )
