"""Formats: saved SAEs are loaded unchanged; damaged, foreign and hostile files give one clear error."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hooked_whisper.errors import CheckpointError, ConfigError
from sae_lens_audio import (
    SAE,
    BatchTopK,
    BatchTopKConfig,
    Metadata,
    NormalizedSAE,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    load_sae,
    save_sae,
)
from tests.sae.saes import all_of_them, filled, inputs

DATA = Path(__file__).parent / "data"
CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def every() -> dict[str, SAE]:
    return {sae.architecture: filled(sae).float() for sae in all_of_them()}


@pytest.mark.parametrize("name", sorted(every()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sae = every()[name].to(dtype)
    metadata = Metadata(
        "encoder.blocks.2.hook_resid_post",
        None,
        "tiny",
        "ab" * 32,
        16000,
        "corpus",
        "cd" * 32,
        "dropped",
        {"note": [1]},
    )
    log_sparsity = torch.linspace(-9, 0, sae.n_features)
    save_sae(sae, tmp_path, metadata, log_sparsity)
    loaded = load_sae(tmp_path)
    assert type(loaded.sae) is type(sae) and loaded.sae.config == sae.config
    assert loaded.metadata == metadata and loaded.source == tmp_path / WEIGHTS
    assert loaded.log_sparsity is not None and torch.equal(loaded.log_sparsity, log_sparsity)
    for key, tensor in sae.state_dict().items():
        read = loaded.sae.state_dict()[key]
        assert torch.equal(read, tensor.to(read.dtype)) and read.device.type == "cpu", key
        assert read.dtype == (torch.float64 if key == "topk_threshold" else dtype)
    x = inputs(sae).to(dtype)
    assert torch.equal(loaded.sae.encode(x), sae.encode(x)) and torch.equal(loaded.sae(x), sae(x))
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_normalized_without_metadata(tmp_path: Path) -> None:
    sae = NormalizedSAE(every()["standard"], "layer_norm")
    save_sae(sae, tmp_path, log_sparsity=torch.zeros(9))
    save_sae(sae, tmp_path)
    loaded = load_sae(tmp_path)
    x = inputs(sae.inner).float()
    assert isinstance(loaded.sae, NormalizedSAE) and torch.equal(loaded.sae(x), sae(x))
    assert loaded.metadata == Metadata() and loaded.log_sparsity is None, "the old sparsity is gone"


@given(st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_any_size(tmp_path_factory: pytest.TempPathFactory, d: int, f: int, centered: bool) -> None:
    folder = tmp_path_factory.mktemp("sae")
    sae = Standard(StandardConfig(d, f, centered), seed=f)
    save_sae(sae, folder)
    torch.testing.assert_close(load_sae(folder).sae.state_dict(), sae.state_dict(), atol=0, rtol=0)


def test_a_tied_sae_is_saved_as_standard(tmp_path: Path) -> None:
    sae = Tied(TiedConfig(5, 9))
    save_sae(sae, tmp_path)
    cfg, tensors = json.loads((tmp_path / CFG).read_text()), load_file(tmp_path / WEIGHTS)
    assert cfg["architecture"] == "standard" and cfg["apply_b_dec_to_input"] is False
    assert torch.equal(tensors["W_dec"], tensors["W_enc"].T) and not tensors["b_dec"].any()
    assert cfg["metadata"]["sae_lens_version"] >= "6.0.0"


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("topk", "k", 4), ("standard", "d_sae", 7), ("jumprelu", "architecture", "standard"), ("gated", "hook", "here"),
     ("standard", "normalize_activations", "expected_average_only_in"), ("tied", "apply_b_dec_to_input", None)],
)  # fmt: skip
def test_an_edit_beside_our_block_is_refused(name: str, key: str, value: Any, tmp_path: Path, unchecked: None) -> None:
    save_sae(every()[name], tmp_path)
    edit(tmp_path, lambda cfg: cfg.update({key: value}))
    with pytest.raises((CheckpointError, ConfigError), match=f"'?{key}|{value}"):
        load_sae(tmp_path)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    save_sae(every()["standard"], tmp_path)
    (tmp_path / CFG).write_bytes(b"\xef\xbb\xbf" + (tmp_path / CFG).read_bytes())
    load_sae(tmp_path)


def test_a_file_rewritten_by_another_program(tmp_path: Path) -> None:
    """Without our digest only SAELens' keys count: our block may belong to other weights."""
    save_sae(every()["tied"], tmp_path, Metadata(hook_name="here", sample_rate=16000))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, tmp_path / WEIGHTS)
    loaded = load_sae(tmp_path)
    assert isinstance(loaded.sae, Standard) and torch.equal(loaded.sae.W_enc, tensors["W_enc"] * 2)
    assert loaded.metadata.hook_name == "here" and loaded.metadata.sample_rate == 16000


def test_nothing_is_written_that_cannot_be_read(tmp_path: Path) -> None:
    broken = every()["standard"]
    with torch.no_grad():
        broken.W_enc[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="W_enc has NaN"):
        save_sae(broken, tmp_path / "new")
    with pytest.raises(CheckpointError, match="calibrate_"):
        save_sae(BatchTopK(BatchTopKConfig(5, 9, k=2)), tmp_path / "new")
    with pytest.raises(CheckpointError, match="sparsity has shape"):
        save_sae(every()["standard"], tmp_path / "new", log_sparsity=torch.zeros(3))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_old_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = every()["standard"]
    save_sae(old, tmp_path)
    from sae_lens_audio.formats import files

    def full(path: Path, data: bytes) -> None:
        if "cfg" in path.name:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        save_sae(every()["gated"], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CFG, WEIGHTS]
    assert torch.equal(load_sae(tmp_path).sae.W_enc, old.W_enc)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = CFG) -> None:
    cfg = json.loads((folder / name).read_text())
    change(cfg)
    (folder / name).write_text(json.dumps(cfg))


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / name, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(architecture="temporal"), "'architecture' 'temporal' is not supported"),
        (lambda c: c.pop("architecture"), "'architecture' None"),
        (lambda c: c.update(normalize_activations="batch"), "'normalize_activations' 'batch'"),
        (lambda c: c.update(normalize_activations="expected_average_only_in"), "scaling_factor="),
        (lambda c: c.update(normalize_activations="covariance_whitening"), "activation_whitening.safetensors"),
        (lambda c: c.update(reshape_activations="hook_z"), "flatten"),
        (lambda c: c.update(apply_b_dec_to_inputs=False), "unknown key 'apply_b_dec_to_inputs'"),
        (lambda c: c.update(dtype="int8"), "dtype must be one of"),
        (lambda c: c.update(d_in=7), r"W_enc is shape \[6, 10\]"),
        (lambda c: c.update(d_sae=10**15), "W_enc is shape"),
        (lambda c: c.update(d_in="6"), "'d_in' must be a positive integer"),
        (lambda c: c.update(k=11), "k must be an integer above 0 and at most"),
        (lambda c: c.update(k=None), "'k' must be"),
        (lambda c: c.update(apply_b_dec_to_input="no"), "must be true or false"),
        (lambda c: c.update(metadata=[1]), "'metadata' must be an object"),
        (lambda c: c["metadata"].update(hook_name=3), "'hook_name' must be str"),
        (lambda c: c["metadata"].update(sae_lens_version="new"), "no version number"),
    ],
)
def test_unsupported_configurations_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    folder = copied("saelens/topk", tmp_path)
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_sae(folder)
    assert str(folder) in str(error.value)


def test_a_missing_scaling_factor_may_be_passed(tmp_path: Path) -> None:
    folder = copied("saelens/topk_scaled", tmp_path)
    expected = load_sae(folder).sae
    (folder / "activation_scaler.json").unlink()
    assert torch.equal(load_sae(folder, scaling_factor=2.5).sae.W_enc, expected.W_enc)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str = WEIGHTS) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b_enc"), "missing b_enc"),
        (lambda t: t.update(mean=torch.zeros(6)), "unexpected mean"),
        (lambda t: t.update(W_dec=t["W_dec"].T), r"W_dec has shape \[6, 10\] instead of \[10, 6\]"),
        (lambda t: t.update(b_dec=t["b_dec"] * torch.nan), "b_dec has NaN or infinite values"),
        (lambda t: t.pop("W_enc"), "W_enc is missing"),
        (lambda t: t.update(scaling_factor=torch.full((10,), 2.0)), "finetuning_scaling_factor"),
    ],
)
@pytest.mark.parametrize("kind", ["standard", "topk_rescaled"])
def test_weights_that_do_not_fit(kind: str, change: Any, message: str, tmp_path: Path) -> None:
    folder = copied(f"saelens/{kind}", tmp_path)
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_sae(folder)
    assert WEIGHTS in str(error.value)


@pytest.mark.parametrize("ours", [False, True])
def test_truncated_and_mixed_files(ours: bool, tmp_path: Path) -> None:
    folder = copied("saelens/standard", tmp_path)
    if ours:
        save_sae(every()["standard"], folder)
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            load_sae(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / CFG).write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load_sae(folder)
    (folder / CFG).unlink()
    with pytest.raises(CheckpointError, match=r"cfg\.json does not exist"):
        load_sae(folder)


def test_digests(tmp_path: Path) -> None:
    save_sae(every()["standard"], tmp_path / "a")
    save_sae(every()["jumprelu"], tmp_path / "b")
    shutil.copy(tmp_path / "a" / WEIGHTS, tmp_path / "b" / WEIGHTS)
    with pytest.raises(CheckpointError, match="come from different saves"):
        load_sae(tmp_path / "b")
    data = bytearray((tmp_path / "a" / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / "a" / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_sae(tmp_path / "a")


def test_configurations_before_version_6(tmp_path: Path) -> None:
    folder = copied("saelens/topk", tmp_path)
    sae = load_sae(folder).sae
    old = {
        "d_in": 6, "d_sae": 10, "dtype": "torch.float32", "hook_point": "blocks.1", "model_name": "tiny",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "normalize_activations": False,
        "finetuning_scaling_factor": False, "lr": 1e-3,
    }  # fmt: skip
    (folder / CFG).write_text(json.dumps(old))
    rewrite(folder, lambda t: t.update(scaling_factor=torch.ones(10)))
    loaded = load_sae(folder)
    assert type(loaded.sae) is type(sae) and torch.equal(loaded.sae.W_enc, sae.W_enc)
    assert (loaded.metadata.hook_name, loaded.metadata.checkpoint) == ("blocks.1", "tiny")
    assert loaded.metadata.extra["lr"] == 1e-3
    for key, value, message in [
        ("activation_fn_str", "tanh-relu", "'activation_fn' 'tanh-relu'"),
        ("normalize_activations", True, "scaling_factor="),
        ("hook_point", "blocks.1.attn.hook_z", "reshape_activations"),
        ("activation_fn_kwargs", {}, "activation_fn_kwargs: 'k' must be"),
    ]:
        (folder / CFG).write_text(json.dumps(old | {key: value}))
        with pytest.raises(CheckpointError, match=message):
            load_sae(folder)


def test_sparsify_is_checked(tmp_path: Path) -> None:
    folder = copied("sparsify/plain", tmp_path)
    edit(folder, lambda c: c.update(activation="groupmax"))
    with pytest.raises(CheckpointError, match="'activation' 'groupmax'"):
        load_sae(folder)
    edit(folder, lambda c: c.update(activation="topk", num_latents=0, expansion_factor=2))
    with pytest.raises(CheckpointError, match=r"encoder.weight has shape \[10, 6\] instead of \[12, 6\]"):
        load_sae(folder)
    edit(folder, lambda c: c.update(num_latents=10, skip_connection=True))
    with pytest.raises(CheckpointError, match="missing W_skip"):
        load_sae(folder)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_sae_learning_is_checked(tmp_path: Path) -> None:
    folder = copied("dictionary_learning/BatchTopKSAE", tmp_path)
    state = torch.load(folder / "ae.pt", weights_only=True)
    (folder / "checkpoints").mkdir()
    torch.save(state, folder / "checkpoints" / "ae_10.pt")
    assert torch.equal(load_sae(folder / "checkpoints" / "ae_10.pt").sae.W_dec, state["decoder.weight"].T)

    torch.save({key: tensor for key, tensor in state.items() if key != "threshold"}, folder / "ae.pt")
    unset = load_sae(folder).sae
    assert isinstance(unset, BatchTopK) and unset.topk_threshold.isnan()
    unset.calibrate_([torch.randn(64, 6)])
    assert unset.encode(torch.randn(3, 6)).shape == (3, 10)

    for broken, message in [
        (state | {"encoder.bias": torch.zeros(3)}, r"encoder.bias has shape \[3\]"),
        (state | {"more": torch.zeros(3)}, "unexpected more"),
        ({key: t for key, t in state.items() if key != "b_dec"}, "missing b_dec"),
        ({"ae": state, "step": 3}, "training backup"),
        (state | {"b_dec": torch.full((6,), torch.inf)}, "b_dec has NaN or infinite"),
        ([1], "must be a dictionary of tensors"),
    ]:
        torch.save(broken, folder / "ae.pt")
        with pytest.raises(CheckpointError, match=message):
            load_sae(folder)
    evil = {"b_dec": Evil(tmp_path / "was_here")}
    for write in (
        lambda: torch.save(evil, folder / "ae.pt"),
        lambda: (folder / "ae.pt").write_bytes(pickle.dumps(evil, 2)),
    ):
        write()
        with pytest.raises(CheckpointError, match="cannot be loaded as weights"):
            load_sae(folder)
    assert not (tmp_path / "was_here").exists()
    edit(folder, lambda c: c["trainer"].update(dict_class="AutoEncoderTop"), "config.json")
    with pytest.raises(CheckpointError, match="AutoEncoderTopK"):
        load_sae(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_sae(folder)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        load_sae(tmp_path / "absent")
    save_sae(every()["standard"], tmp_path / "layer_3")
    with pytest.raises(CheckpointError, match="its folders layer_3 do"):
        load_sae(tmp_path)
