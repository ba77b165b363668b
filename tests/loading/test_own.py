"""Our own folders: round trips, and saves that are interrupted."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import Checkpoint, fold_ln, load_into, load_own_folder, resolve, save_pretrained
from hooked_whisper.model import WhisperCore
from tests.core.twins import Twins
from tests.loading.sources import edit_json, loaded


def assert_same_weights(a: WhisperCore, b: WhisperCore) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_round_trip(twins: Twins, tmp_path):
    core = copy.deepcopy(twins.core)
    core.cfg = replace(core.cfg, name="my model", alignment_heads=((0, 1),))
    save_pretrained(core, tmp_path / "a" / "b", metadata={"wer": "0.08"})
    checkpoint = load_own_folder(tmp_path / "a" / "b")
    assert checkpoint.config == core.cfg
    assert checkpoint.metadata == {"wer": "0.08"}
    assert_same_weights(loaded(checkpoint), core)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_tied_weights_are_stored_once(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "decoder.unembed.weight" not in file.keys()  # noqa: SIM118


def test_untied_model_round_trip(one_block: Twins, tmp_path):
    core = copy.deepcopy(one_block.core)
    fold_ln(core)
    save_pretrained(core, tmp_path)
    assert_same_weights(loaded(resolve(tmp_path)), core)


def test_loading_ties_an_untied_model_again(one_block: Twins):
    core = copy.deepcopy(one_block.core)
    fold_ln(core)
    load_into(core, resolve(one_block.core))
    assert_same_weights(core, one_block.core)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_in_memory(one_block: Twins, dtype, tmp_path):
    save_pretrained(one_block.core, tmp_path / "full")
    save_pretrained(one_block.core, tmp_path / "half", dtype=dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    model = loaded(resolve(tmp_path / "half"))
    assert model.dtype == torch.float32
    assert torch.equal(model.W_E, one_block.core.W_E.to(dtype).float())


def test_load_into_another_dtype(one_block: Twins):
    model = WhisperCore(one_block.core.cfg)
    load_into(model, resolve(one_block.core), dtype=torch.float64)
    assert_same_weights(model, one_block.core64)


def test_values_too_large_for_half_precision(one_block: Twins, tmp_path):
    core = copy.deepcopy(one_block.core)
    with torch.no_grad():
        core.W_E[3, 4] = 1e6
    with pytest.raises(ValueError, match=r"decoder\.token_embedding\.weight has values up to 1e\+06"):
        save_pretrained(core, tmp_path, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_same_weights_give_the_same_files(one_block: Twins, tmp_path):
    for name in ("a", "b"):
        save_pretrained(one_block.core, tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_both_files_get_ordinary_permissions(one_block: Twins, tmp_path):
    save_pretrained(one_block.core, tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_metadata_must_be_text(one_block: Twins, tmp_path, unchecked):
    with pytest.raises(ValueError, match="strings"):
        save_pretrained(one_block.core, tmp_path, metadata={"wer": 0.08})  # type: ignore[dict-item]


def test_model_on_the_meta_device_gets_its_memory(one_block: Twins):
    model = WhisperCore(one_block.core.cfg).to("meta")
    load_into(model, resolve(one_block.core))
    assert_same_weights(model, one_block.core)
    mel, tokens = one_block.mel(), one_block.tokens(4)
    assert torch.equal(model(mel, tokens), one_block.core(mel, tokens))


def test_checkpoint_of_another_shape(one_block: Twins, odd: Twins):
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_into(copy.deepcopy(odd.core), resolve(one_block.core))


class Cut(BaseException):
    """Not an Exception: like Ctrl-C."""


class TestInterrupted:
    @pytest.fixture
    def folder(self, one_block: Twins, tmp_path):
        save_pretrained(one_block.core, tmp_path, metadata={"save": "first"})
        return tmp_path

    @pytest.fixture
    def other(self, one_block: Twins):
        other = copy.deepcopy(one_block.core)
        with torch.no_grad():
            other.W_E.add_(1)
        return other

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    @pytest.mark.parametrize("call", [1, 2])
    def test_the_old_save_stays(self, folder, one_block, other, monkeypatch, function, call):
        real, calls = getattr(os, function), []

        def cut(*args, **kwargs):
            calls.append(args)
            if len(calls) == call:
                raise Cut
            return real(*args, **kwargs)

        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        monkeypatch.setattr(os, function, cut)
        with pytest.raises(Cut):
            save_pretrained(other, folder, metadata={"save": "second"})
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert_same_weights(loaded(load_own_folder(folder)), one_block.core)

    def test_interrupted_save_without_hard_links_is_detected(self, folder, other, monkeypatch):
        def no_links(*args, **kwargs):
            raise OSError("not on this file system")

        real = os.replace

        def cut(source, target):
            if str(target).endswith("config.json"):
                raise Cut
            real(source, target)

        monkeypatch.setattr(os, "link", no_links)
        monkeypatch.setattr(os, "replace", cut)
        with pytest.raises(Cut):
            save_pretrained(other, folder)
        with pytest.raises(CheckpointError, match="different saves"):
            load_own_folder(folder)
        monkeypatch.undo()
        save_pretrained(other, folder)
        assert_same_weights(loaded(load_own_folder(folder)), other)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 2},
        {"format_version": "one"},
        {"config": 3},
        {"config": {}},
        {"metadata": []},
    ],
)
def test_invalid_fields_are_refused(one_block: Twins, tmp_path, changes):
    save_pretrained(one_block.core, tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_ctx", "1500"), ("n_ctx", True), ("n_layers", 0), ("d_model", 1e3), ("n_heads", None), ("extra", 1)],
)
def test_invalid_shapes_are_refused(one_block: Twins, tmp_path, field, value):
    save_pretrained(one_block.core, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    config["encoder"][field] = value
    edit_json(tmp_path / "config.json", config=config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(tmp_path)


@pytest.mark.parametrize("heads", ["Infinity", '[["a", 1]]', "[[9, 9]]", "[1]", "[[Infinity, 1]]"])
def test_invalid_alignment_heads_are_refused(one_block: Twins, tmp_path, heads):
    save_pretrained(one_block.core, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"alignment_heads": null', f'"alignment_heads": {heads}'))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(tmp_path)


def test_checkpoint_is_frozen(one_block: Twins):
    checkpoint = resolve(one_block.core)
    assert isinstance(checkpoint, Checkpoint)
    with pytest.raises(AttributeError):
        checkpoint.source = "elsewhere"  # type: ignore[misc]
