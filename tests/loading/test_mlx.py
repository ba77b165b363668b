"""MLX folders: floats bit-equal, quantized layers within their rounding, damaged archives refused."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.model import ModelDimensions, sinusoids

from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import Checkpoint, from_core
from hooked_whisper.loading.mlx import is_mlx_folder, load_mlx_folder
from tests.core.twins import random_openai, to_core
from tests.loading.mlx_files import mlx_arrays, quantized_arrays, write_mlx
from tests.loading.sources import edit_json, loaded

DIMS = ModelDimensions(80, 10, 64, 2, 2, 67, 9, 64, 4, 3)


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return from_core(to_core(random_openai(DIMS)))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as info:
        load_mlx_folder(folder)
    assert str(folder) in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_floats_are_bit_equal(small, tmp_path, dtype, suffix):
    arrays = mlx_arrays(small, dtype) | {"alignment_heads": np.array([[1, 2], [2, 0]])}
    folder = write_mlx(tmp_path / "whisper-x", small, arrays, suffix)
    assert is_mlx_folder(folder)
    checkpoint = load_mlx_folder(folder)
    assert checkpoint.config.dims == DIMS and checkpoint.config.name == "whisper-x"
    assert checkpoint.config.alignment_heads == ((1, 2), (2, 0))
    assert checkpoint.metadata == {"format": f"MLX, weights{suffix}"}
    for name, tensor in small.tensors.items():
        if name == "encoder.positional_embedding":
            assert torch.equal(checkpoint.tensors[name], sinusoids(10, 64))
            continue
        assert torch.equal(checkpoint.tensors[name], torch.from_numpy(tensor.detach().numpy().astype(dtype))), name
    assert loaded(checkpoint)(torch.randn(1, 80, 20), torch.tensor([[1, 2]])).isfinite().all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_quantized_within_the_rounding(small, tmp_path, bits, group, suffix):
    arrays = quantized_arrays(mlx_arrays(small, np.float32), bits, group)
    scheme = {"bits": bits, "group_size": group}
    checkpoint = load_mlx_folder(write_mlx(tmp_path / "q", small, arrays, suffix, quantization=scheme))
    assert checkpoint.metadata["quantization"] == f"MLX {bits} bits, dequantized to float32"
    n_quantized = 0
    for name, tensor in small.tensors.items():
        if tensor.ndim == 2 and name.endswith(".weight"):
            groups = tensor.detach().reshape(tensor.shape[0], -1, group)
            step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
            error = (checkpoint.tensors[name].reshape(groups.shape) - groups).abs().amax(-1)
            assert bool((error <= 0.501 * step).all()) and bool((error > 0.2 * step).any())
            n_quantized += 1
    assert n_quantized == 2 * 6 + 3 * 10 + 1


def test_recognition(small, tmp_path):
    folder = write_mlx(tmp_path / "x", small, mlx_arrays(small, np.float16))
    assert is_mlx_folder(folder) and not is_mlx_folder(tmp_path) and not is_mlx_folder(tmp_path / "absent")
    edit_json(folder / "config.json", n_mels=None)
    assert not is_mlx_folder(folder)
    (folder / "config.json").write_text("[")
    assert not is_mlx_folder(folder)


class TestRefused:
    @pytest.fixture
    def arrays(self, small) -> dict[str, np.ndarray]:
        return mlx_arrays(small, np.float16)

    @pytest.mark.parametrize(
        ("name", "value", "match"),
        [
            ("extra", np.ones(3, np.float16), "unexpected extra"),
            ("encoder.conv1.weight", np.ones((64, 80, 3), np.float16), "conv1.weight has shape"),
            ("encoder.conv1.bias", np.ones(64, np.int32), "conv1.bias is torch.int32"),
            ("encoder.conv1.bias", np.ones(64, np.float64), "conv1.bias is float64"),
            ("encoder.conv1.bias", np.array([object()]), "conv1.bias is object"),
            ("encoder.conv1.bias", np.asfortranarray(np.ones((2, 3), np.float16)), "in Fortran order"),
            ("encoder.conv1.bias", np.ones((0, 3), np.float16), "conv1.bias has shape"),
            ("encoder.conv2.bias", np.ones(7, np.float16), "conv2.bias has shape"),
            ("alignment_heads", np.ones((2, 3), np.int32), "alignment_heads is"),
            ("alignment_heads", np.full((2, 2), 9, np.int32), r"alignment head \(9, 9\)"),
            ("decoder.token_embedding.scales", np.ones((67, 1), np.float16), "quantization is"),
        ],
    )
    def test_array(self, small, arrays, tmp_path, name, value, match):
        refused(write_mlx(tmp_path / "x", small, arrays | {name: value}), match)

    @pytest.mark.parametrize(
        "scheme",
        [None, "4", {"bits": 3, "group_size": 64}, {"bits": 4}, {"bits": 4, "group_size": 64, "mode": "mxfp4"}],
    )
    def test_scheme(self, small, arrays, tmp_path, scheme):
        refused(
            write_mlx(tmp_path / "x", small, quantized_arrays(arrays, 4, 64), quantization=scheme), "quantization is"
        )

    def test_quantized_layer(self, small, arrays, tmp_path):
        scheme = {"bits": 4, "group_size": 64}
        good, name = quantized_arrays(arrays, 4, 64), "decoder.token_embedding"
        for change, match in [
            ({f"{name}.scales": np.full((67, 1), np.nan, np.float16)}, "not finite"),
            ({f"{name}.scales": np.ones((67, 2), np.float16)}, "is not a matrix of 4 bits"),
            ({f"{name}.weight": np.ones((67, 8), np.int32)}, "is not a matrix of 4 bits"),
            ({f"{name}.weight": np.uint32(3)}, "is not a matrix of 4 bits"),
        ]:
            refused(write_mlx(tmp_path / "x", small, good | change, quantization=scheme), match)
        del good[f"{name}.biases"]
        refused(write_mlx(tmp_path / "x", small, good, quantization=scheme), "expected weight, scales and biases")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n_audio_head": 5}, "n_heads 5"),
            ({"n_mels": "80"}, "does not describe a Whisper model"),
            ({"n_text_layer": 10**9}, "blocks"),
            ({"n_vocab": 68}, r"token_embedding.weight has shape \(67, 64\)"),
        ],
    )
    def test_sizes(self, small, arrays, tmp_path, change, match):
        refused(write_mlx(tmp_path / "x", small, arrays, **change), match)

    def test_header_that_claims_more(self, small, arrays, tmp_path):
        """Nothing is allocated from the shape in a header."""
        folder = write_mlx(tmp_path / "x", small, arrays)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
        with zipfile.ZipFile(folder / "weights.npz", "a") as archive:
            archive.writestr("big.npy", header.getvalue() + b"abc")
        refused(folder, "big has shape")

    def test_zip_bomb(self, small, tmp_path):
        folder = write_mlx(tmp_path / "x", small, {})
        np.savez_compressed(folder / "weights.npz", big=np.zeros(10**7, np.float16))
        refused(folder, "more than it can hold")

    def test_pickle(self, small, arrays, tmp_path):
        folder = write_mlx(tmp_path / "x", small, arrays)
        (folder / "weights.npz").write_bytes(b"\x80\x04N.")
        refused(folder, "not a whole .npz file")

    @given(data=st.data())
    @settings(max_examples=40)
    def test_damage(self, small, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("damaged")
        write_mlx(folder, small, mlx_arrays(small, np.float16))
        content = bytearray((folder / "weights.npz").read_bytes())
        where = st.one_of(
            st.integers(0, 300), st.integers(0, len(content) - 1), st.integers(len(content) - 3000, len(content) - 1)
        )
        if data.draw(st.booleans()):
            del content[data.draw(where) :]
        else:
            for position in data.draw(st.lists(where, min_size=1, max_size=4)):
                content[position] ^= data.draw(st.integers(1, 255))
        (folder / "weights.npz").write_bytes(content)
        with contextlib.suppress(CheckpointError):
            load_mlx_folder(folder)
