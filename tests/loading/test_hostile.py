"""Broken, foreign and malicious files: one error that names the file, nothing executed, nothing huge allocated."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import resolve, save_pretrained
from tests.core.twins import Twins
from tests.loading.sources import HF_LAYOUTS, save_openai

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as info:
        resolve(path)
    message = str(info.value)
    assert path.name in message and "\n" not in message
    for word in words:
        assert word in message
    assert info.value.__cause__ is None


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_openai_file(one_block: Twins, tmp_path, keep):
    path = save_openai(one_block.openai, tmp_path / "cut.pt")
    _truncate(path, keep)
    refused(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("layout", ["own", "safetensors", "bin", "bin of old PyTorch"])
def test_truncated_weights_in_a_folder(one_block: Twins, tmp_path, keep, layout):
    if layout == "own":
        save_pretrained(one_block.core, tmp_path)
    else:
        HF_LAYOUTS[layout](one_block.hf, tmp_path)
    path = next(path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin"))
    _truncate(path, keep)
    refused(path)
    with pytest.raises(CheckpointError, match=path.name):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors", "pytorch_model.bin", "model"])
def test_text_under_another_name(one_block: Twins, tmp_path, name):
    one_block.hf.config.save_pretrained(tmp_path)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path / name)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("how", ["pickle", "torch zip", "torch legacy", "inside a state dict"])
def test_pickled_code_is_not_executed(one_block: Twins, tmp_path, how, protocol):
    payload, path = Payload(tmp_path / "executed"), tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=protocol))
    elif how == "inside a state dict":
        state = {**one_block.openai.state_dict(), "x": payload}
        torch.save({"dims": asdict(one_block.dims), "model_state_dict": state}, path, pickle_protocol=protocol)
    else:
        torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how == "torch zip")
    refused(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(payload))  # it would have worked
    assert (tmp_path / "executed").is_dir()


def test_pickled_code_in_a_transformers_folder(one_block: Twins, tmp_path):
    one_block.hf.config.save_pretrained(tmp_path)
    torch.save({"a": Payload(tmp_path / "executed")}, tmp_path / "pytorch_model.bin")
    refused(tmp_path / "pytorch_model.bin", "mkdir", "none of it was executed")
    assert not (tmp_path / "executed").exists()


def test_environment_cannot_switch_the_protection_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Payload(tmp_path / "executed"), tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"model_state_dict": {}}, "'dims'"),
        ({"dims": {}}, "'model_state_dict'"),
        ({"state_dict": {}, "epoch": 3}, "epoch"),
        ([1, 2], "list"),
        (torch.zeros(3), "Tensor"),
        ({"dims": {}, "model_state_dict": [1]}, "list"),
        ({"dims": {}, "model_state_dict": {"a": 1}}, "'a'"),
        ({"dims": {}, "model_state_dict": {1: torch.zeros(1)}}, "1 is a Tensor"),
        ({"dims": {}, "model_state_dict": {"a": torch.zeros(1).to_sparse()}}, "sparse"),
        ({"dims": {}, "model_state_dict": {"a": torch.zeros(1, device="meta")}}, "meta"),
    ],
)
def test_torch_files_of_other_kinds(tmp_path, content, word):
    torch.save(content, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", word)


def test_plain_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as file:
        file.writestr("readme.txt", "nothing")
    refused(tmp_path / "plain.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"n_audio_layer": 10**12},
        {"n_vocab": 10**15},
        {"n_audio_state": 2 * 10**9, "n_text_state": 2 * 10**9},
        {"n_text_ctx": 10**30},
        {"n_mels": -1},
        {"n_mels": "80"},
        {"n_mels": None},
        {"n_text_head": 7},
        {"n_text_state": 16},
        {"unknown": 1},
        {"n_text_layer": float("inf")},
    ],
    ids=str,
)
def test_wrong_dims(one_block: Twins, tmp_path, change):
    dims = asdict(one_block.dims) | change
    torch.save({"dims": dims, "model_state_dict": one_block.openai.state_dict()}, tmp_path / "lie.pt")
    refused(tmp_path / "lie.pt")


@pytest.mark.parametrize("dims", [None, 3, [1] * 10, {}, "tiny"])
def test_dims_of_another_type(one_block: Twins, tmp_path, dims):
    torch.save({"dims": dims, "model_state_dict": one_block.openai.state_dict()}, tmp_path / "lie.pt")
    refused(tmp_path / "lie.pt", "dims")


def test_tensor_that_claims_more_than_it_holds(one_block: Twins, tmp_path):
    dims = asdict(one_block.dims) | {"n_vocab": 10**10}
    state = one_block.openai.state_dict() | {"decoder.token_embedding.weight": torch.zeros(1, 32).expand(10**10, 32)}
    torch.save({"dims": dims, "model_state_dict": state}, tmp_path / "bomb.pt")
    refused(tmp_path / "bomb.pt", "decoder.token_embedding.weight claims")


def test_integer_weights(one_block: Twins, tmp_path):
    state = one_block.openai.state_dict() | {"decoder.ln.weight": torch.ones(32, dtype=torch.int8)}
    torch.save({"dims": asdict(one_block.dims), "model_state_dict": state}, tmp_path / "int8.pt")
    refused(tmp_path / "int8.pt", "decoder.ln.weight is torch.int8")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', "[" * 100_000, "\x00\xff", '{"format": 3}', '{"model_type": {}}', "{}"]
)
def test_config_that_is_not_a_mapping(one_block: Twins, tmp_path, text):
    save_pretrained(one_block.core, tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(tmp_path)


@pytest.mark.parametrize("kind", ["own", "transformers"])
def test_config_with_a_billion_blocks(one_block: Twins, tmp_path, kind):
    path = tmp_path / "config.json"
    if kind == "own":
        save_pretrained(one_block.core, tmp_path)
        data = json.loads(path.read_text())
        data["config"]["encoder"]["n_layers"] = 10**9
    else:
        one_block.hf.save_pretrained(tmp_path)
        data = json.loads(path.read_text()) | {"decoder_layers": 10**9}
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="blocks"):
        resolve(tmp_path)


def test_folder_where_a_file_should_be(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        resolve(tmp_path)


def test_empty_folder(tmp_path):
    refused(tmp_path, "no config.json")


def _truncate(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
