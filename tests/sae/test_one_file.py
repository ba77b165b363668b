"""A new architecture is one class: it registers itself, trains, and is saved and loaded by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sae_lens_audio import ARCHITECTURES, SAE, StandardConfig, load_sae, save_sae
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import Standard, base
from sae_lens_audio.formats.saelens_cfg import parse
from sae_lens_audio.training import Trainer, TrainingConfig
from sae_lens_audio.training.settings import parse_settings


@pytest.fixture
def squared() -> Iterator[type[SAE]]:
    class Squared(Standard):
        architecture = "squared"
        saelens_architectures = {"squared": {}}

        def activate(self, pre: torch.Tensor) -> torch.Tensor:
            return pre.relu().square()

    yield Squared
    del base._REGISTRY["squared"]


def test_an_architecture_is_one_class(squared: type[SAE], tmp_path: Path) -> None:
    assert ARCHITECTURES["squared"] is squared
    settings = parse_settings(
        {
            "activations": {"hook": "encoder.blocks.1", "model": "demo"},
            "sae": {"architecture": "squared", "d_sae": 16},
            "training": {"steps": 3, "batch": 32},
        }
    )
    source = TensorActivations(torch.randn(64, 4))
    sae = settings.make_sae(source.widths)
    assert type(sae) is squared and sae.config == StandardConfig(4, 16)
    trained = Trainer(sae, source, TrainingConfig(steps=3, batch=32)).fit(progress=False)
    save_sae(trained, tmp_path)
    loaded = load_sae(tmp_path).sae
    x = torch.randn(5, 4)
    assert type(loaded) is squared and torch.equal(loaded.encode(x), trained.encode(x))


def test_saelens_names_come_from_the_class(squared: type[SAE]) -> None:
    cfg = {"architecture": "squared", "d_in": 4, "d_sae": 16, "l1_coefficient": 2.0}
    cfg["metadata"] = {"sae_lens_version": "6.0.0"}
    config = parse(cfg, Path("cfg.json"))
    assert config.cls is squared and config.values["l1_coefficient"] == 2.0
