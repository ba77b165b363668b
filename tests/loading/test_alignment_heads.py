"""Identifying the released model of a checkpoint, and the warning where that fails."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import whisper
from whisper.model import Whisper

from hooked_whisper import HookedWhisper
from hooked_whisper.config import RELEASED, WhisperConfig
from hooked_whisper.loading import load_openai_file, resolve, save_pretrained
from hooked_whisper.loading.alignment_heads import released_heads, released_names, with_known_heads
from tests.core.twins import Twins
from tests.loading.sources import HF_LAYOUTS, edit_json, save_openai


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", RELEASED)
def test_published_alignment_heads_equal_openai_whisper(name):
    buffers: dict[str, torch.Tensor] = {}
    theirs = SimpleNamespace(
        dims=RELEASED[name].dims, register_buffer=lambda name, t, persistent: buffers.update({name: t})
    )
    Whisper.set_alignment_heads(theirs, whisper._ALIGNMENT_HEADS[name])  # type: ignore[arg-type]
    indices = buffers["alignment_heads"].coalesce().indices()
    assert released_heads(name, RELEASED[name].decoder) == tuple(map(tuple, indices.T.tolist()))


@pytest.mark.parametrize("name", [name for name in RELEASED if name not in ("large-v1", "large-v2")])
@pytest.mark.parametrize("label", ["mine", "tiny", "large-v2", "faster-whisper-base.en"])
def test_shape_identifies_all_but_two(name, label, no_warnings):
    assert released_names(RELEASED[name], label) == [name]
    shorter = replace(RELEASED[name].encoder, n_ctx=500)  # fine-tuned on 10 s windows
    config = with_known_heads(replace(RELEASED[name], encoder=shorter), label, "here")
    assert config.alignment_heads == released_heads(name, RELEASED[name].decoder)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("large-v2", ["large-v2"]),
        ("ggml-large-v1-q5_0", ["large-v1"]),
        ("me/Whisper-Large-V2-german", ["large-v2"]),
        ("faster-whisper-large-v2", ["large-v2"]),
        ("large", ["large-v1", "large-v2"]),  # an alias of large-v3, which has another shape
        ("large-v3", ["large-v1", "large-v2"]),
        ("large-v22", ["large-v1", "large-v2"]),
        ("xlarge-v2", ["large-v1", "large-v2"]),
        ("tiny", ["large-v1", "large-v2"]),
    ],
)
def test_label_decides_between_large_v1_and_v2(label, names):
    assert released_names(RELEASED["large-v1"], label) == names


def test_checksum_decides_where_the_label_does_not(monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(whisper._MODELS, "large-v2", f"https://models.invalid/{digest}/large-v2.pt")
    assert released_names(RELEASED["large-v1"], "mine", lambda: digest) == ["large-v2"]
    assert released_names(RELEASED["large-v1"], "mine", lambda: "0" * 64) == ["large-v1", "large-v2"]


def test_the_checksum_is_computed_only_if_needed():
    def fail() -> str:
        raise AssertionError("3 GB were read for nothing")

    assert released_names(RELEASED["large-v2"], "large-v2", fail) == ["large-v2"]
    assert released_names(RELEASED["tiny"], "mine", fail) == ["tiny"]


@pytest.mark.parametrize(
    "config",
    [
        RELEASED["large-v1"],
        replace(RELEASED["tiny"], decoder=replace(RELEASED["tiny"].decoder, n_vocab=51870)),
        replace(RELEASED["small"], decoder=replace(RELEASED["small"].decoder, n_layers=4)),  # distilled
    ],
    ids=["large-v1 or large-v2", "more tokens", "distilled"],
)
def test_the_fallback_is_announced_once_with_its_heads(config: WhisperConfig):
    first = config.decoder.n_layers // 2
    blocks = rf"blocks {first} to {config.decoder.n_layers - 1}"
    with pytest.warns(UserWarning, match=rf"^x/mine\.pt: .*cross-attention heads of {blocks}") as record:
        assert with_known_heads(config, "mine", "x/mine.pt") == config
    assert len(record) == 1


def test_own_heads_are_kept(no_warnings):
    config = replace(RELEASED["tiny"], alignment_heads=((0, 1),))
    assert with_known_heads(config, "tiny", "here") is config


def test_openai_file_of_a_released_size(tiny: Twins, tmp_path, no_warnings):
    """Not the fall-back, whatever the file is called."""
    for name in ("tiny.pt", "mine.pt"):
        config = load_openai_file(save_openai(tiny.openai, tmp_path / name)).config
        assert config.alignment_heads == released_heads("tiny", RELEASED["tiny"].decoder)


def test_openai_file_of_another_size(odd: Twins, tmp_path):
    with pytest.warns(UserWarning, match=r"odd\.pt.*all 6 cross-attention heads of blocks 1 to 2"):
        assert load_openai_file(save_openai(odd.openai, tmp_path / "odd.pt")).config.alignment_heads is None


def test_transformers_folder_without_a_list(odd: Twins, tiny: Twins, tmp_path):
    HF_LAYOUTS["safetensors"](odd.hf, tmp_path / "odd")
    with pytest.warns(UserWarning, match="all 6 cross-attention heads of blocks 1 to 2"):
        assert resolve(tmp_path / "odd").config.alignment_heads is None
    HF_LAYOUTS["safetensors"](tiny.hf, tmp_path / "tiny")
    assert resolve(tmp_path / "tiny").config.alignment_heads == released_heads("tiny", RELEASED["tiny"].decoder)
    edit_json(tmp_path / "tiny" / "generation_config.json", alignment_heads=[[1, 1]])
    assert resolve(tmp_path / "tiny").config.alignment_heads == ((1, 1),)


def test_no_warning_for_random_weights_our_format_and_loaded_models(odd: Twins, tmp_path, no_warnings):
    model = HookedWhisper.from_pretrained(odd.core.cfg)
    save_pretrained(model, tmp_path)
    assert HookedWhisper.from_pretrained(tmp_path).cfg.alignment_heads is None
    assert resolve(model).config.alignment_heads is None
    theirs = {tuple(pair) for pair in odd.openai.alignment_heads.coalesce().indices().T.tolist()}
    assert set(resolve(odd.openai).config.alignment_heads or ()) == theirs
