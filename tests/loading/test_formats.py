"""One call, any format: recognized by content, from a path or from a hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hooked_whisper.errors import CheckpointError, UnknownModelError
from hooked_whisper.loading import resolve
from hooked_whisper.loading.checkpoint import from_core
from tests.core.twins import Twins
from tests.loading.ctranslate2_files import convert, save_transformers
from tests.loading.ggml_files import write_ggml
from tests.loading.hub import Hub, running
from tests.loading.mlx_files import mlx_arrays, write_mlx
from tests.loading.sources import HF_LAYOUTS, TOLERANCE, edit_json, logits_error, save_openai, small_twins
from tests.loading.test_hub import point_at, unplug

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.fixture(scope="module")
def small() -> Twins:
    return small_twins(n_vocab=30)


@pytest.fixture(scope="module")
def ct2(small: Twins, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ct2")
    return convert(save_transformers(small.hf, folder / "hf"), folder / "faster-whisper-mine", "float32")


@pytest.fixture
def folders(odd: Twins, small: Twins, ct2: Path, tmp_path) -> dict[str, Path]:
    """The same weights in each layout of a folder."""
    HF_LAYOUTS["safetensors"](odd.hf, tmp_path / "transformers")
    HF_LAYOUTS["bin"](odd.hf, tmp_path / "bin")
    checkpoint = from_core(odd.core)
    write_mlx(tmp_path / "mlx", checkpoint, mlx_arrays(checkpoint, np.float32))
    write_mlx(tmp_path / "mlx2", checkpoint, mlx_arrays(checkpoint, np.float32), ".safetensors")
    names = ("transformers", "bin", "mlx", "mlx2")
    return {**{name: tmp_path / name for name in names}, "ctranslate2": ct2}


LAYOUTS = {
    "transformers": "model.safetensors",
    "bin": "pytorch_model.bin",
    "mlx": "weights.npz",
    "mlx2": "weights.safetensors",
    "ctranslate2": "model.bin",
}


@pytest.mark.parametrize(("layout", "file"), LAYOUTS.items())
def test_folder_and_its_file_load_equally(folders, odd, small, layout, file):
    twins = small if layout == "ctranslate2" else odd
    for source in (folders[layout], folders[layout] / file):
        assert logits_error(resolve(source), twins) < TOLERANCE


@pytest.mark.parametrize("name", ["ggml-mine.bin", "model.bin", "weights", "mine.pt"])
def test_whisper_cpp_file_with_any_suffix(odd, tmp_path, name):
    """A config.json of something else beside it does not matter."""
    (tmp_path / "config.json").write_text("{}")
    path = write_ggml(tmp_path / name, from_core(odd.core), "f32")
    assert logits_error(resolve(path), odd) < TOLERANCE


def test_ctranslate2_without_its_config(ct2, small, tmp_path):
    shutil.copy(ct2 / "model.bin", tmp_path / "other.dat")
    assert logits_error(resolve(tmp_path / "other.dat"), small) < TOLERANCE


def test_heads_of_ctranslate2_come_from_its_config(ct2, tmp_path):
    shutil.copytree(ct2, tmp_path / "mine")
    edit_json(tmp_path / "mine" / "config.json", alignment_heads=[[1, 0]])
    assert resolve(tmp_path / "mine").config.alignment_heads == ((1, 0),)
    edit_json(tmp_path / "mine" / "config.json", alignment_heads=[[9, 9]])
    with pytest.warns(UserWarning, match="alignment heads") as record:
        assert resolve(tmp_path / "mine").config.alignment_heads is None
    assert len(record) == 1


@pytest.mark.parametrize(("layout", "file"), LAYOUTS.items())
def test_a_hub_id_of_each_layout(folders, odd, small, tmp_path, monkeypatch, layout, file):
    """Only configs, the vocabulary and the weights are downloaded; later the cache is enough."""
    repo_id, cache = "me/whisper-mine", tmp_path / "cache"
    with running(Hub(repo_id, folders[layout])) as hub, monkeypatch.context() as patch:
        point_at(hub.url, patch)
        checkpoint = resolve(repo_id, cache_dir=cache)
    assert checkpoint.config.name == repo_id
    assert checkpoint.metadata["source"] == f"Hugging Face hub ({repo_id})"
    assert set(hub.fetched) <= {"config.json", "generation_config.json", "vocabulary.json", file}
    unplug(monkeypatch)
    again = resolve(repo_id, cache_dir=cache)
    assert again.metadata["source"] == f"Hugging Face cache ({repo_id})"
    assert logits_error(again, small if layout == "ctranslate2" else odd) < TOLERANCE


def test_a_file_of_a_whisper_cpp_repository(odd, tmp_path, monkeypatch):
    repository, cache = tmp_path / "repository", tmp_path / "cache"
    repository.mkdir()
    for name in ("ggml-tiny.bin", "ggml-base.bin"):
        write_ggml(repository / name, from_core(odd.core), "f16")
    with running(Hub("ggerganov/whisper.cpp", repository)) as hub:
        point_at(hub.url, monkeypatch)
        checkpoint = resolve("ggerganov/whisper.cpp/ggml-base.bin", cache_dir=cache)
        assert hub.fetched == ["ggml-base.bin"]
        with pytest.raises(UnknownModelError, match=r"no file 'ggml-bass\.bin'.*ggml-base\.bin, ggml-tiny\.bin"):
            resolve("ggerganov/whisper.cpp/ggml-bass.bin", cache_dir=cache)
        with pytest.raises(CheckpointError, match=r"ggerganov/whisper\.cpp/ggml-base\.bin"):
            resolve("ggerganov/whisper.cpp", cache_dir=cache)
    assert logits_error(checkpoint, odd) < 1e-2
    unplug(monkeypatch)
    assert resolve("ggerganov/whisper.cpp/ggml-base.bin", cache_dir=cache, local_files_only=True)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("model.gguf", b"GGUF" + bytes(100), "GGUF"),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("model.pt", b"<!DOCTYPE html><html>", "web page"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("model.pt", b"Entry not found", "text"),
        ("model.json", b"{}", "JSON"),
    ],
)
def test_another_format_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is .*{what}"):
        resolve(tmp_path / name)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.bin", "weights.npz", "config.json"])
@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\noid sha256:0", "<!doctype html>"])
def test_a_folder_with_a_file_that_was_not_fetched(tmp_path, file, content):
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=f"{file},? .*(git lfs pull|web page)"):
        resolve(tmp_path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_wrapped_weights_explain_the_remedy(small, tmp_path, prefix):
    path = save_openai(small.openai, tmp_path / "mine.pt")
    data = torch.load(path)
    data["model_state_dict"] = {prefix + name: tensor for name, tensor in data["model_state_dict"].items()}
    torch.save(data, path)
    folder = save_transformers(small.hf, tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    for source in (path, folder):
        with pytest.raises(CheckpointError, match=rf"begin with '{prefix}.*remove") as caught:
            resolve(source)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", [b"\x80\x02junk", b"\x80\x04K\x01.", b"\x00" * 600, b"\x80\x02}q\x00" + b"\xff" * 30]
)
def test_no_error_recommends_unsafe_loading(tmp_path, content):
    for name in ("a.pt", "a.bin", "a"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            resolve(tmp_path / name)
        assert not re.search("weights_only|safe_globals|trust", str(caught.value))


def test_folders_of_other_kinds_are_refused_by_name(small, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    for source in (tmp_path, tmp_path / "adapter_model.safetensors"):
        with pytest.raises(CheckpointError, match=r"LoRA.*merge_and_unload"):
            resolve(source)
    trainer = tmp_path / "runs"
    save_transformers(small.hf, trainer / "checkpoint-1000")
    (trainer / "checkpoint-500").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-1000"):
        resolve(trainer)
    assert logits_error(resolve(trainer / "checkpoint-1000"), small) < TOLERANCE
