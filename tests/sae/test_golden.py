"""Same numbers as the libraries that own the formats: their files, inputs and outputs (make_golden.py).

With sae-lens itself: test_with_sae_lens.py, in a separate environment.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio import BatchTopK, LoadedSAE, Matryoshka, NormalizedSAE, Transcoder, load_sae, save_sae

DATA = Path(__file__).parent / "data"
FOLDERS = sorted(path.parent for path in DATA.rglob("golden.safetensors"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def check(loaded: LoadedSAE, folder: Path) -> None:
    golden = load_file(folder / "golden.safetensors")
    with torch.no_grad():
        features, output = loaded.sae.encode(golden["x"]), loaded.sae(golden["x"])
    assert torch.equal(features != 0, golden["features"] != 0)
    torch.testing.assert_close(features, golden["features"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(output, golden["output"], atol=5e-6, rtol=1e-5)


def test_there_is_data() -> None:
    assert len(FOLDERS) == 29


def test_same_features_and_output(folder: Path) -> None:
    loaded = load_sae(folder)
    assert isinstance(loaded.sae, FeatureBasis)
    check(loaded, folder)
    if folder.parent.name == "saelens" and folder.name not in ("gated_whitened", "topk_scaled"):
        assert loaded.metadata.checkpoint == "whisper-tiny"
        assert loaded.metadata.hook_name == "encoder.blocks.2.hook_resid_post"


def test_same_numbers_after_saving_and_loading(folder: Path, tmp_path: Path) -> None:
    loaded = load_sae(folder)
    save_sae(loaded.sae, tmp_path, loaded.metadata)
    again = load_sae(tmp_path)
    check(again, folder)
    assert type(again.sae) is type(loaded.sae)
    for name, tensor in loaded.sae.state_dict().items():
        assert torch.equal(again.sae.state_dict()[name], tensor), name


def test_kinds() -> None:
    assert isinstance(load_sae(DATA / "saelens/training_batchtopk").sae, BatchTopK)
    matryoshka = load_sae(DATA / "saelens/training_matryoshka").sae
    assert isinstance(matryoshka, Matryoshka) and matryoshka.config.widths == (3, 10)
    theirs = load_sae(DATA / "dictionary_learning/MatryoshkaBatchTopKSAE").sae
    assert isinstance(theirs, Matryoshka) and theirs.config.widths == (4, 10)
    assert isinstance(load_sae(DATA / "saelens/standard_layer_norm").sae, NormalizedSAE)
    skip = load_sae(DATA / "sparsify/skip").sae
    assert isinstance(skip, Transcoder) and skip.config.skip
