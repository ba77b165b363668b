"""What other files are called in errors."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hooked_whisper.weights.sniff import describe_foreign


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
