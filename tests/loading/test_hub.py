"""Hugging Face ids: fetched from a hub on this machine, then from the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator

import huggingface_hub
import pytest

from hooked_whisper.errors import CheckpointError, UnknownModelError
from hooked_whisper.loading import resolve
from tests.core.twins import Twins
from tests.loading.hub import Hub, running
from tests.loading.sources import HF_LAYOUTS, TOLERANCE, logits_error, small_twins

NAME = "openai/whisper-small-one"

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.fixture
def hub(one_block: Twins, tmp_path, monkeypatch) -> Iterator[Hub]:
    HF_LAYOUTS["safetensors"](one_block.hf, tmp_path / "repo")
    (tmp_path / "repo" / "flax_model.msgpack").write_bytes(b"large")
    (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"large")
    with running(Hub(NAME, tmp_path / "repo")) as hub:
        point_at(hub.url, monkeypatch)
        yield hub


def point_at(url: str, monkeypatch) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def unplug(monkeypatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)  # nobody listens there


def test_only_required_files_are_downloaded(hub, one_block, tmp_path):
    checkpoint = resolve(NAME, cache_dir=tmp_path / "cache")
    assert checkpoint.config.name == NAME
    assert logits_error(checkpoint, one_block) < TOLERANCE
    assert sorted(hub.fetched) == ["config.json", "generation_config.json", "model.safetensors"]


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer.json"])
def test_vocabulary_comes_from_the_tokenizer_without_a_generation_config(tmp_path, monkeypatch, file):
    """Base with one added token has as many tokens as large-v3."""
    small_twins(51866).hf.save_pretrained(tmp_path / "repo")
    (tmp_path / "repo" / "generation_config.json").unlink()
    ids = {"<|startoftranscript|>": 50258, "<|notimestamps|>": 50363}
    entries = {"added_tokens": [{"content": name, "id": i} for name, i in ids.items()]}
    (tmp_path / "repo" / file).write_text(json.dumps(entries if file == "tokenizer.json" else ids))
    (tmp_path / "repo" / "vocabulary.json").write_text("not needed")
    with running(Hub(NAME, tmp_path / "repo")) as hub:
        point_at(hub.url, monkeypatch)
        checkpoint = resolve(NAME, cache_dir=tmp_path / "cache")
    assert checkpoint.config.token_layout == 51865
    assert sorted(hub.fetched) == sorted(["config.json", "model.safetensors", file])


def test_tokenizer_is_not_fetched_if_the_generation_config_names_the_vocabulary(tmp_path, monkeypatch):
    small_twins(51866).hf.save_pretrained(tmp_path / "repo")
    (tmp_path / "repo" / "generation_config.json").write_text('{"no_timestamps_token_id": 50363}')
    (tmp_path / "repo" / "tokenizer.json").write_text("{}")
    with running(Hub(NAME, tmp_path / "repo")) as hub:
        point_at(hub.url, monkeypatch)
        assert resolve(NAME, cache_dir=tmp_path / "cache").config.token_layout == 51865
    assert "tokenizer.json" not in hub.fetched


@pytest.mark.parametrize("how", ["local_files_only", "offline", "no network"])
def test_cached_model_needs_no_network(hub, one_block, tmp_path, monkeypatch, how):
    resolve(NAME, cache_dir=tmp_path / "cache")
    hub.fetched.clear()
    if how == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    if how == "no network":
        unplug(monkeypatch)
    checkpoint = resolve(NAME, cache_dir=tmp_path / "cache", local_files_only=how == "local_files_only")
    assert logits_error(checkpoint, one_block) < TOLERANCE
    assert not hub.fetched


def test_revision(hub, tmp_path):
    cache = tmp_path / "cache"
    assert resolve(NAME, revision="v1", cache_dir=cache).config == resolve(NAME, cache_dir=cache).config
    with pytest.raises(CheckpointError, match=r"no revision 'v9'"):
        resolve(NAME, revision="v9", cache_dir=cache)


@pytest.mark.parametrize("layout", ["sharded safetensors", "sharded bin"])
def test_shards(odd, tmp_path, monkeypatch, layout):
    HF_LAYOUTS[layout](odd.hf, tmp_path / "repo")
    with running(Hub(NAME, tmp_path / "repo")) as hub:
        point_at(hub.url, monkeypatch)
        assert logits_error(resolve(NAME, cache_dir=tmp_path / "cache"), odd) < TOLERANCE


def test_unknown_repository(hub, tmp_path):
    with pytest.raises(UnknownModelError, match="no model 'openai/nothing'") as info:
        resolve("openai/nothing", cache_dir=tmp_path / "cache")
    assert info.value.__suppress_context__


def test_repository_without_weights(hub, tmp_path):
    for path in hub.folder.glob("*model.*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"lacks config\.json or weights"):
        resolve(NAME, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("how", ["local_files_only", "offline", "no network"])
def test_missing_network_is_a_one_line_error(tmp_path, monkeypatch, how):
    unplug(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", how == "offline")
    with pytest.raises(CheckpointError, match=r"not in the Hugging Face cache.*local \.pt file") as info:
        resolve("openai/whisper-tiny", cache_dir=tmp_path, local_files_only=how == "local_files_only", revision="v2")
    assert "'openai/whisper-tiny' at revision 'v2'" in str(info.value)
    assert "\n" not in str(info.value) and info.value.__suppress_context__


def test_download_cut_short(hub, tmp_path, monkeypatch):
    def fail(repo_id, file, **kwargs):
        raise ConnectionResetError("connection reset")

    monkeypatch.setattr("hooked_whisper.loading.hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded \(connection reset\)"):
        resolve(NAME, cache_dir=tmp_path / "cache")
