"""Training from a store behind an URL into a folder behind one, stopped and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hooked_whisper.errors import CheckpointError
from hooked_whisper.storage import as_path
from sae_lens_audio import TopK, TopKConfig, load_sae, save_sae
from sae_lens_audio.activations import StoredBlocks, harvest
from sae_lens_audio.activations.options import HarvestOptions
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training import Trainer, TrainingConfig, read_metrics
from sae_lens_audio.training.log import TensorBoard
from tests.findings.worlds import small_model
from tests.sae.activations.worlds import RESID, corpus

CONFIG = TrainingConfig(steps=12, batch=32, lr=1e-2)


def test_a_run_behind_an_url_is_the_same(tmp_path: Path) -> None:
    options = HarvestOptions(shard_rows=90, batch=2)
    far = harvest(small_model(0), corpus(8), RESID, "memory://test_train/store", options, progress=False)
    near = harvest(small_model(0), corpus(8), RESID, tmp_path / "store", options, progress=False)
    folders = as_path("memory://test_train/run"), tmp_path / "run"
    for store, folder in zip((far, near), folders, strict=True):
        torch.manual_seed(0)
        for steps in (5, 12):  # stopped after five, then gone on with
            torch.manual_seed(0)
            sae = TopK(TopKConfig(store.widths[0], 40, k=4))
            with Trainer(sae, StoredBlocks(store, RESID), CONFIG, folder, log_every=2) as trainer:
                if steps == 5:
                    for _ in range(steps):
                        trainer.step()
                    trainer.save()
                else:
                    assert trainer.number == 5
                    trainer.fit(progress=False)
    one, two = (load_sae(folder / "sae") for folder in folders)
    for name, tensor in one.sae.state_dict().items():
        assert torch.equal(tensor, two.sae.state_dict()[name])
    assert str(one.source) == "memory://test_train/run/sae/sae_weights.safetensors"
    kept = [[{k: v for k, v in line.items() if k != "steps_per_s"} for line in read_metrics(f)] for f in folders]
    assert kept[0] == kept[1] and [line["step"] for line in kept[0]] == [6, 8, 10, 12]


def test_errors_name_the_url() -> None:
    with pytest.raises(CheckpointError, match=r"memory://test_train/none"):
        load_sae("memory://test_train/none")
    place = as_path("memory://test_train/sae")
    save_sae(TopK(TopKConfig(4, 8, k=2)), place)
    (place / "cfg.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"memory://test_train/sae/cfg.json"):
        load_sae(place)
    with pytest.raises(TrainingError, match="TensorBoard writes to local folders"):
        TensorBoard(place, 0)
