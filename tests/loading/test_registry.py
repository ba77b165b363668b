"""Names and paths: which takes precedence, and the errors for unknown ones."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

from hooked_whisper.errors import CheckpointError, MissingWeightsError, UnknownModelError
from hooked_whisper.loading import model_names, registry, resolve, save_pretrained
from tests.core.twins import Twins
from tests.loading.sources import save_openai

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.mark.parametrize("name", ["tinny", "whisper-tinny", "Tiny", "lage-v3", "gpt2-tiny"])
def test_near_names(name):
    with pytest.raises(UnknownModelError, match=r"did you mean .*(tiny|large-v3).*openai/whisper-tiny.*local \.pt"):
        resolve(name)


@pytest.mark.parametrize("name", ["", " ", "xyzzy", "x" * 5000, "a\0b", "~nobody-here/x"])
def test_no_near_names(name):
    with pytest.raises(UnknownModelError):
        resolve(name)


@pytest.mark.parametrize(
    "source",
    ["nothing/here.pt", "./nothing", "../a/b", "~/nothing", "a/b/c", "model.safetensors", Path("nothing"), Path("a/b")],
)
def test_paths_that_do_not_exist(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="does not exist"):
        resolve(source)


@pytest.mark.parametrize("source", [None, 3, ["tiny"], torch.nn.Linear(2, 2), torch.zeros(3)])
def test_other_objects(source):
    with pytest.raises(UnknownModelError, match=type(source).__name__):
        resolve(source)


def test_our_own_model_is_a_source(one_block: Twins):
    checkpoint = resolve(one_block.core)
    assert checkpoint.config == one_block.core.cfg
    assert torch.equal(checkpoint.tensors["decoder.token_embedding.weight"], one_block.core.W_E)


def test_a_file_or_model_folder_wins_over_a_name(one_block: Twins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_openai(one_block.openai, tmp_path / "tiny")
    assert resolve("tiny").config.dims == one_block.dims
    save_pretrained(one_block.core, tmp_path / "base")
    assert resolve("base").config.dims == one_block.dims
    save_pretrained(one_block.core, tmp_path / "openai" / "whisper-tiny")
    assert resolve("openai/whisper-tiny").config.dims == one_block.dims


def test_unrelated_folder_does_not_hide_a_model_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(MissingWeightsError, match="no weights of 'tiny'"):
        resolve("tiny", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(CheckpointError, match=r"folder .*tiny has no config\.json"):
        resolve(tmp_path / "tiny")


def test_home_is_expanded(one_block: Twins, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_pretrained(one_block.core, tmp_path / "mine")
    assert resolve("~/mine").config == one_block.core.cfg


def test_own_weight_file_under_another_name(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "step-100.safetensors")
    assert resolve(tmp_path / "step-100.safetensors").config == one_block.core.cfg


def test_safetensors_without_config(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors needs the model's config\.json beside it"):
        resolve(tmp_path / "model.safetensors")


def test_revision_only_for_the_hub(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    for source in (tmp_path, "tiny", one_block.core):
        with pytest.raises(ValueError, match="revision='v1'"):
            resolve(source, revision="v1")


class TestDemo:
    def test_is_the_packaged_folder(self, one_block: Twins, tmp_path, monkeypatch):
        save_pretrained(one_block.core, tmp_path / "demo", metadata={"wer": "0.05"})
        monkeypatch.setattr(resources, "files", lambda package: tmp_path)
        assert resolve("demo").metadata == {"wer": "0.05"}

    def test_absent_weights(self, tmp_path, monkeypatch):
        monkeypatch.setattr(resources, "files", lambda package: tmp_path)
        with pytest.raises(CheckpointError, match="no demo weights"):
            resolve("demo")


def test_known_names_are_those_of_openai_whisper():
    import whisper

    assert set(model_names()) == {"demo", *whisper.available_models()}
    assert registry.DEMO == "demo"
