"""Round trips with the real sae-lens: its loader on our folders, and ours on its folders. ``make test-peers`` runs
this. ``pytest --parity-table`` prints the largest differences.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAE, SAETrainer, TopKTrainingSAE, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file
from torch import Tensor

from sae_lens_audio import SAE as OurSAE
from sae_lens_audio import BatchTopK, Matryoshka, Metadata, NormalizedSAE, Tied, TopK, load_sae, save_sae
from sae_lens_audio.formats.saelens_cfg import FORMAT_VERSION
from sae_lens_audio.pretrained.catalog import AvailableSAE, packaged_saes
from tests.core.parity import record, relative_l2
from tests.sae.saes import all_of_them, filled

DATA = Path(__file__).parent / "data"
WIDE, MANY, ROWS = 384, 3072, 32  # the residual stream of whisper-tiny, 8 times as many features
NOT_THEIRS = {"crosscoder", "topk_transcoder"}
HERE = "encoder.blocks.2.hook_resid_post"


def theirs_it_has() -> list[str]:
    return sorted({sae.architecture for sae in all_of_them()} - NOT_THEIRS)


def ours_of(architecture: str, real_size: bool = True) -> OurSAE:
    small = {sae.architecture: sae for sae in all_of_them()}[architecture]
    if not real_size:
        return filled(small).float()
    sizes: dict[str, Any] = {"d_in": WIDE, "d_sae": MANY}
    for name, value in {"k": 32, "widths": (192, 768, MANY), "d_out": WIDE}.items():
        if hasattr(small.config, name):
            sizes[name] = value
    sae = type(small)(replace(small.config, **sizes), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name.startswith(("b_", "r_", "W_skip")):  # zero in a fresh one
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        if isinstance(sae, BatchTopK):
            sae.topk_threshold.fill_(2.2)
    return sae


def rows(width: int) -> Tensor:
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def compare(comparison: str, kind: str, ours: Any, theirs: Any, width: int) -> None:
    """Compare active features, values and reconstructions, and record the largest differences."""
    x = rows(width)
    our_acts, wanted = ours.encode(x), theirs.encode(x)
    assert torch.equal(our_acts != 0, wanted != 0) and (wanted != 0).any()
    differences = {f"{kind} encode": (our_acts, wanted), f"{kind} forward": (ours(x), theirs(x))}
    if not isinstance(ours, NormalizedSAE):  # whose decode alone has no scale
        differences[f"{kind} decode"] = (ours.decode(wanted), theirs.decode(wanted))
    for a, b in differences.values():
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert record(comparison, {name: relative_l2(a, b) for name, (a, b) in differences.items()}) < 1e-6


def test_version_of_sae_lens() -> None:
    import sae_lens

    assert sae_lens.__version__ == FORMAT_VERSION, "the version whose form is written is the one tested with"


@pytest.mark.parametrize("real_size", [False, True], ids=["small", "384x3072"])
@pytest.mark.parametrize("architecture", theirs_it_has())
def test_sae_lens_loads_our_folders(architecture: str, real_size: bool, tmp_path: Path) -> None:
    sae = ours_of(architecture, real_size)
    save_sae(sae, tmp_path, Metadata(hook_name=HERE, checkpoint="whisper-tiny", sample_rate=16000, padding="dropped"))
    theirs = SAE.load_from_disk(tmp_path)
    compare("ours -> sae-lens", architecture, sae, theirs, sae.d_in)
    assert theirs.cfg.metadata.hook_name == HERE and theirs.cfg.metadata.model_name == "whisper-tiny"
    assert theirs.cfg.metadata.sae_lens_audio["sample_rate"] == 16000
    # and back: our digest is gone, so it is read by their keys alone
    theirs.save_model(tmp_path / "again")
    again = load_sae(tmp_path / "again")
    compare("ours -> sae-lens -> ours", architecture, again.sae, theirs, sae.d_in)
    assert again.metadata.hook_name == HERE


def test_loading_restores_our_architecture(tmp_path: Path) -> None:
    """Several of our architectures are saved as one of sae-lens; loading restores the original one."""
    for architecture, cls in (("tied", Tied), ("batchtopk", BatchTopK), ("matryoshka_batchtopk", Matryoshka)):
        save_sae(ours_of(architecture, False), tmp_path / architecture)
        assert type(load_sae(tmp_path / architecture).sae) is cls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", ["topk", "gated", "batchtopk"])
def test_sae_lens_loads_other_dtypes(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sae = ours_of(architecture, False).to(dtype)
    save_sae(sae, tmp_path)
    theirs = SAE.load_from_disk(tmp_path)
    assert theirs.dtype == dtype
    for name, tensor in theirs.state_dict().items():
        wanted = sae.topk_threshold if isinstance(sae, BatchTopK) and name == "threshold" else sae.state_dict()[name]
        assert torch.equal(tensor, wanted.to(dtype).expand_as(tensor)), name


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_sae_lens_loads_our_normalized_saes(normalization: Any, tmp_path: Path) -> None:
    sae = NormalizedSAE(ours_of("standard"), normalization)
    save_sae(sae, tmp_path)
    compare("ours -> sae-lens", f"standard, {normalization}", sae, SAE.load_from_disk(tmp_path), WIDE)


def test_from_pretrained_of_sae_lens_loads_our_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders as we push them to the hub (here a folder on disk), with firing frequencies."""
    from sae_lens.loading import pretrained_sae_loaders

    monkeypatch.setattr(
        pretrained_sae_loaders, "hf_hub_download", lambda repo_id, filename, **_: str(tmp_path / repo_id / filename)
    )
    sae, sparsity = ours_of("topk", False), torch.linspace(-9, 0, 9)
    save_sae(sae, tmp_path / "some/body/block2", Metadata(hook_name=HERE), sparsity)
    theirs, cfg, log_sparsity = SAE.from_pretrained_with_cfg_and_sparsity("some/body", "block2")
    compare("ours -> sae-lens", "topk, from the hub", sae, theirs, sae.d_in)
    assert log_sparsity is not None and torch.equal(log_sparsity, sparsity)
    assert cfg["architecture"] == "topk" and theirs.cfg.metadata.hook_name == HERE


@pytest.mark.parametrize("packaged", packaged_saes(), ids=lambda sae: f"{sae.release}/{sae.sae_id}")
def test_sae_lens_loads_the_packaged_saes(packaged: AvailableSAE, tmp_path: Path) -> None:
    """In float16, as packaged, and in float32, as ours loads them; what it saves, ours loads again bit for bit."""
    name = f"{packaged.release} {packaged.sae_id}"
    theirs, loaded = SAE.load_from_disk(packaged.folder), load_sae(packaged.folder)
    assert theirs.dtype == torch.float16 and theirs.cfg.metadata.hook_name == packaged.hook_name
    assert theirs.cfg.metadata.model_name == packaged.release
    theirs.save_model(tmp_path)
    again = load_sae(tmp_path)
    assert torch.equal(again.sae.W_dec, theirs.W_dec) and torch.equal(again.sae.W_enc, theirs.W_enc)
    assert again.metadata.hook_name == packaged.hook_name and again.sae.dtype == torch.float16
    theirs = theirs.to(dtype=torch.float32)
    compare("packaged -> sae-lens", name, loaded.sae.float(), theirs, packaged.d_in)
    compare("packaged -> sae-lens -> ours", name, again.sae.float(), theirs, packaged.d_in)


THEIRS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard, not centered": {"architecture": "standard", "apply_b_dec_to_input": False},
    "topk": {"k": 32},
    "topk, rescaled": {"architecture": "topk", "k": 32, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 32},
    "jumprelu": {},
    "gated": {},
    "transcoder": {"d_out": 256, "apply_b_dec_to_input": False},
    "skip_transcoder": {"d_out": 256, "apply_b_dec_to_input": False},
    "jumprelu_transcoder": {"d_out": 256, "apply_b_dec_to_input": False},
    "jumprelu_skip_transcoder": {"d_out": 256, "apply_b_dec_to_input": False},
}


@pytest.mark.parametrize("name", THEIRS)
def test_our_reader_loads_folders_of_sae_lens(name: str, tmp_path: Path) -> None:
    common = {"architecture": name, "d_in": WIDE, "d_sae": MANY, "device": "cpu"}
    theirs = SAE.from_dict(common | THEIRS[name])
    theirs.cfg.metadata = SAEMetadata(hook_name=HERE, model_name="whisper-tiny", note={"kept": [1, 2]})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if key == "threshold":
                parameter.abs_()
    theirs.save_model(tmp_path)
    loaded = load_sae(tmp_path)
    compare("sae-lens -> ours", name, loaded.sae, theirs, WIDE)
    assert loaded.metadata.hook_name == HERE and loaded.metadata.checkpoint == "whisper-tiny"
    assert loaded.metadata.extra["note"] == {"kept": [1, 2]}


def trained(architecture: str) -> tuple[TrainingSAE, SAETrainer]:
    """Run a few steps of sae-lens' trainer, for decoder norms and thresholds as training leaves them."""
    sizes = {"batchtopk": {"k": 7.5}, "matryoshka_batchtopk": {"k": 8, "matryoshka_widths": [32, 128, 512]}}
    keys = sizes.get(architecture, {"k": 8} if architecture == "topk" else {})
    torch.manual_seed(0)
    sae = TrainingSAE.from_dict({"architecture": architecture, "d_in": 64, "d_sae": 512, "device": "cpu"} | keys)
    config = SAETrainerConfig(total_training_samples=40 * 256, train_batch_size_samples=256, lr=3e-3, lr_end=3e-4)
    generator = torch.Generator().manual_seed(1)
    batches = iter(torch.randn(40, 256, 64, generator=generator) + torch.randn(64, generator=generator))
    trainer = SAETrainer(config, sae, batches)
    trainer.fit()
    return sae, trainer


@pytest.mark.parametrize("architecture", ["standard", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated"])
def test_our_reader_loads_saes_trained_by_sae_lens(architecture: str, tmp_path: Path) -> None:
    sae, trainer = trained(architecture)
    sae.save_inference_model(tmp_path / "inference")
    theirs = SAE.load_from_disk(tmp_path / "inference")
    loaded = load_sae(tmp_path / "inference")
    compare("sae-lens, trained -> ours", architecture, loaded.sae, theirs, 64)
    # a checkpoint of training holds more than the SAE; only that, and how often features fire, is read
    trainer.save_checkpoint("step", base_path=tmp_path)
    checkpoint = load_sae(tmp_path / "step")
    compare("sae-lens, checkpoint -> ours", architecture, checkpoint.sae, theirs, 64)
    assert checkpoint.log_sparsity is not None and checkpoint.log_sparsity.shape == (512,)
    kinds = {TopKTrainingSAE: TopK, BatchTopKTrainingSAE: BatchTopK, MatryoshkaBatchTopKTrainingSAE: Matryoshka}
    assert type(sae) not in kinds or type(checkpoint.sae) is kinds[type(sae)]


def test_the_golden_files_agree_with_sae_lens() -> None:
    """The main tests compare with stored numbers; this test compares those with the library again."""
    seen = 0
    for folder in sorted(path.parent for path in (DATA / "saelens").rglob("golden.safetensors")):
        if json.loads((folder / "cfg.json").read_text())["architecture"].endswith("batchtopk"):
            continue  # of training: their numbers are those of the exported folder beside
        theirs, golden = SAE.load_from_disk(folder), load_file(folder / "golden.safetensors")
        if folder.name in ("gated_whitened", "topk_scaled"):
            continue  # the numbers are those after folding, which they do in training only
        with torch.no_grad():
            torch.testing.assert_close(theirs.encode(golden["x"]), golden["features"], atol=2e-6, rtol=1e-5)
            torch.testing.assert_close(theirs(golden["x"]), golden["output"], atol=5e-6, rtol=1e-5)
        seen += 1
    assert seen == 15
