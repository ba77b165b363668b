"""Files and settings of version 0.1 are still read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hooked_whisper._support.renamed import RenamedWarning
from sae_lens_audio.training import TrainingConfig
from sae_lens_audio.training.checkpoint import CHECKPOINT
from sae_lens_audio.training.config import RENAMED
from sae_lens_audio.training.settings import parse_settings
from tests.sae.training.sources import trainer


def as_version_01_wrote(path: Path) -> None:
    """Rename the keys of a checkpoint to those of version 0.1."""
    tensors = {name.replace("optimizer.", "optimiser."): tensor for name, tensor in load_file(path).items()}
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    identity = facts["identity"]
    identity["dictionary"] = identity.pop("sae")
    training = identity["training"]
    for old, new in RENAMED.items():
        training[old] = training.pop(new)
    facts["place"]["block"] = facts["place"].pop("chunk")
    save_file(tensors, path, {"facts": json.dumps(facts)})


def test_a_checkpoint_is_resumed(tmp_path: Path) -> None:
    expected = trainer().fit(progress=False)
    with trainer(tmp_path) as run:
        for _ in range(20):
            run.step()
        run.save()
    as_version_01_wrote(tmp_path / CHECKPOINT)
    resumed = trainer(tmp_path)
    assert resumed.number == 20
    for a, b in zip(resumed.fit(progress=False).parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_keys_of_a_settings_file_warn() -> None:
    data = {
        "activations": {"hook": "encoder.blocks.1", "model": "demo", "recordings_per_block": 9},
        "dictionary": {"architecture": "topk", "d_sae": 16, "k": 2},
        "training": {"steps": 5, "optimiser": "radam", "centre": False},
    }
    with pytest.warns(RenamedWarning) as caught:
        settings = parse_settings(data)
    training = {f"[training] {old}" for old in RENAMED}
    assert {str(w.message).split(" is now")[0] for w in caught} == {
        "section [dictionary]", "[activations] recordings_per_block", *training
    }  # fmt: skip
    assert settings.activations.recordings_per_chunk == 9 and settings.sae["k"] == 2
    assert settings.training == TrainingConfig(steps=5, optimizer="radam", center=False)


def test_arguments_warn() -> None:
    with pytest.warns(RenamedWarning, match="optimizer"):
        config = TrainingConfig(steps=5, optimiser="radam")  # type: ignore[call-arg]
    assert config.optimizer == "radam"
