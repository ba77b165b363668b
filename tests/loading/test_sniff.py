"""Descriptions of unsupported files in errors."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hooked_whisper.loading.sniff import describe_content, describe_foreign, describe_foreign_folder, describe_names


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("model.bin", b"GGUF\x03\0\0\0" + bytes(50), "GGUF"),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("model.safetensors", b"\n\n<!DOCTYPE html>\n<html>", "web page"),
        ("tiny.en.pt", b"<HTML><head>", "web page"),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        ("model.bin.gz", b"\x1f\x8b\x08" + bytes(20), "gzip"),
        ("model.onnx", b"anything", "ONNX"),
        ("model.bin", b"\x08\x07\x12\x07pytorch", "ONNX"),
        ("a.pt", b"RIFF\x24\0\0\0WAVE", "WAV"),
        ("a.pt", b"PK\x03\x04 and then nothing", "damaged ZIP"),
        ("a.pt", b"", "empty"),
        ("a.pt", b"x", "text"),
        ("a.pt", b"Entry not found", "'Entry not found'"),
        ("a.bin", '{"error": "fran\u00e7ais"}'.encode(), "text"),
        ("a.pt", ("x" * 511 + "\u00e9").encode(), "text"),
        ("config.json", b"{}", "folder"),
        ("a.pt", b"ID3\x04" + bytes(50), "MP3"),
        ("a.pt", b"OggS" + bytes(50), "Ogg"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        ("a.pt", bytes(257) + b"ustar\0" + bytes(200), "tar"),
    ],
)
def test_by_first_bytes(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    assert word in describe_foreign(tmp_path / name)


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("whisper/readme.txt", "hello")
    assert "'whisper/readme.txt'" in describe_foreign(tmp_path / "model.pt")
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    assert "MLX" in describe_foreign(tmp_path / "weights.npz")
    torch.save({"a": torch.zeros(3)}, tmp_path / "torch.pt")
    assert describe_foreign(tmp_path / "torch.pt") is None


def test_torchscript(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), tmp_path / "a.pt")
    assert "TorchScript" in describe_foreign(tmp_path / "a.pt")


NAMES = ("model.encoder.conv1.weight", "model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.bias")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda name: f"module.{name}", r"'module\.' \(of DataParallel"),
        (lambda name: f"_orig_mod.{name}", r"'_orig_mod\.' \(of torch\.compile"),
        (lambda name: f"_orig_mod.module.{name}", "_orig_mod"),
        (lambda name: name.replace("model.", "model._orig_mod."), "_orig_mod"),
        (lambda name: f"net.whisper.{name}", r"'net\.whisper\.'"),
        (lambda name: f"base_model.model.{name}", "LoRA"),
        (lambda name: name.replace("weight", "lora_A.default.weight"), "LoRA"),
        (lambda name: name.replace("weight", "SCB"), "bitsandbytes"),
        (lambda name: name.replace("weight", "qweight"), "GPTQ"),
    ],
)
def test_by_names(change, word):
    assert re.search(word, describe_names([change(name) for name in NAMES], NAMES))


def test_unhelpful_names_are_ignored():
    assert describe_names(NAMES, NAMES) is None
    assert describe_names(["a", "b.c", *NAMES[:1]], NAMES) is None
    assert describe_names(["module.x", *NAMES], NAMES) is None


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"state_dict": {}, "epoch": 1, "global_step": 3, "pytorch-lightning_version": "2.0"}, "Lightning"),
        ({"state_dict": {}, "epoch": 1}, "'state_dict'"),
        ({"model": {}, "optimizer": {}}, "'model'"),
        ({"state": {}, "param_groups": []}, "optimizer"),
        ({"module.decoder.token_embedding.weight": 0}, "bare state_dict"),
        ({"base_model.model.x.lora_A.weight": 0}, "LoRA"),
    ],
)
def test_by_content(content, word):
    assert word in describe_content(content)


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA"),
        (["checkpoint-900/x", "checkpoint-1000/x", "runs/x"], "checkpoint-1000"),
        (["zero_to_fp32.py", "latest"], "DeepSpeed"),
        (["config.json", "model.onnx"], "ONNX"),
        (["flax_model.msgpack"], "Flax"),
        (["openvino_encoder_model.xml", "openvino_encoder_model.bin"], "OpenVINO"),
        (["tiny.pt"], "tiny.pt"),
        (["ggml-tiny.bin"], "ggml-tiny.bin"),
        (["tokenizer.json", "vocab.json"], "tokenizer only"),
    ],
)
def test_by_files(tmp_path, files, word):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"\x80\0\0\0\0")
    assert word in describe_foreign_folder(tmp_path)


def test_a_folder_with_a_pointer(tmp_path):
    assert describe_foreign_folder(tmp_path) is None
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in describe_foreign_folder(tmp_path)


def test_safetensors_by_another_name(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.bin")
    assert "rename it to model.safetensors" in describe_foreign(tmp_path / "model.bin")
    (tmp_path / "model.bin").rename(tmp_path / "model.safetensors")
    assert describe_foreign(tmp_path / "model.safetensors") is None


def test_not_recognized(tmp_path):
    assert describe_foreign(tmp_path) is None
    (tmp_path / "x.bin").write_bytes(b"\x80\x02\xff\x00no text")
    assert describe_foreign(tmp_path / "x.bin") is None


@given(content=st.binary(max_size=60), name=st.sampled_from(["a.bin", "a", "a.npz", "a.safetensors"]))
def test_any_bytes(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("x") / name
    path.write_bytes(content)
    assert describe_foreign(path) is None or isinstance(describe_foreign(path), str)
