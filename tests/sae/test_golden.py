"""Equality with the libraries that own the formats: files they wrote, inputs, what they computed (make_golden.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio import BatchTopK, Loaded, Matryoshka, Normalised, Tied, Transcoder, load_sae, save_sae

DATA = Path(__file__).parent / "data"
FOLDERS = sorted(path.parent for path in DATA.rglob("golden.safetensors"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def check(loaded: Loaded, folder: Path) -> None:
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


def test_and_again_after_our_own_save(folder: Path, tmp_path: Path) -> None:
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
    assert isinstance(load_sae(DATA / "saelens/standard_layer_norm").sae, Normalised)
    skip = load_sae(DATA / "sparsify/skip").sae
    assert isinstance(skip, Transcoder) and skip.config.skip


def test_sae_lens_loads_what_we_write(tmp_path: Path) -> None:
    """With the package itself, where it is installed."""
    sae_lens = pytest.importorskip("sae_lens")
    from tests.sae.test_formats import every

    worst = 0.0
    for name, sae in every().items():
        if name in ("crosscoder", "topk_transcoder"):
            continue
        save_sae(sae, tmp_path / name)
        theirs = sae_lens.SAE.load_from_disk(tmp_path / name)
        x = torch.randn(8, sae.d_in, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            assert torch.equal(theirs.encode(x) != 0, sae.encode(x) != 0), name
            worst = max(worst, (theirs.encode(x) - sae.encode(x)).abs().max().item())
            worst = max(worst, (theirs(x) - sae(x)).abs().max().item())
        assert worst < 1e-5, name
        assert theirs.cfg.metadata.hook_name is None and theirs.cfg.metadata.sae_lens_audio["version"] == 1
        # and what it writes from ours is read by its own keys: the digest of our weights is gone
        theirs.save_model(tmp_path / f"{name}_again")
        again = load_sae(tmp_path / f"{name}_again").sae
        torch.testing.assert_close(again(x), sae(x), atol=1e-5, rtol=1e-5)
    assert isinstance(load_sae(tmp_path / "tied").sae, Tied)
