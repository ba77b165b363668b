"""whisper.cpp's files, against the ``gguf`` package and whisper.cpp itself."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from whisper.model import ModelDimensions

import hooked_whisper
from hooked_whisper import HookedWhisper
from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import Checkpoint, from_core, resolve
from hooked_whisper.loading.ctranslate2 import load_ctranslate2_parts
from hooked_whisper.loading.ggml import is_ggml, load_ggml
from hooked_whisper.loading.ggml_blocks import BLOCK_TYPES
from tests.core.parity import record, relative_l2
from tests.core.twins import random_openai, to_core
from tests.loading.damage import damage
from tests.loading.ggml_files import (
    FILE_TYPES,
    dequantize,
    file_tensors,
    head_bytes,
    quantize,
    rounded,
    stored_type,
    tensor_bytes,
    whisper_cpp_logits,
    write_ggml,
)
from tests.loading.real_packages import package_files
from tests.loading.sources import loaded

BLOCKS = {block_type.name: block_type for block_type in BLOCK_TYPES.values()}
DIMS = ModelDimensions(80, 8, 32, 2, 1, 67, 9, 32, 2, 2)


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return from_core(to_core(random_openai(DIMS)))


@pytest.fixture(scope="module")
def medium() -> Checkpoint:
    """Wide enough for blocks of 32 to matter; more decoder than encoder blocks."""
    return from_core(to_core(random_openai(ModelDimensions(80, 50, 128, 2, 2, 211, 16, 128, 4, 3))))


def refused(data: bytes, folder: Path, match: str) -> None:
    path = folder / "ggml-bad.bin"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as info:
        load_ggml(path)
    assert str(path) in str(info.value) and "\n" not in str(info.value)


class TestBlocks:
    @pytest.mark.parametrize("kind", BLOCKS)
    @given(data=st.data())
    def test_equal_gguf_on_random_blocks(self, kind, data):
        """Every bit pattern of the integers; finite scales, zeros and subnormal numbers among them."""
        block_type = BLOCKS[kind]
        raw = data.draw(arrays(np.uint8, (data.draw(st.integers(1, 9)), block_type.n_bytes)))
        numbers = raw[:, : 2 + 2 * block_type.has_minimum].copy().view(np.float16)
        raw[:, : 2 + 2 * block_type.has_minimum] = np.where(np.isfinite(numbers), numbers, 0.5).astype("<f2").view("u1")
        ours, theirs = block_type.dequantize(raw.tobytes()), dequantize(raw, kind).ravel()
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs)

    @pytest.mark.parametrize("kind", BLOCKS)
    def test_within_the_rounding(self, kind):
        values = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
        weights = BLOCKS[kind].dequantize(quantize(values, kind).tobytes()).reshape(-1, 32)
        values = values.reshape(-1, 32)
        spread = np.ptp(values, axis=1) if kind.endswith("1") else 2 * np.abs(values).max(axis=1)
        error = np.abs(weights - values).max(axis=1) / spread
        assert error.max() < 1.2 / (2 ** BLOCKS[kind].bits - 1) * (0.5 if kind.endswith("1") or kind == "q8_0" else 1)

    @pytest.mark.parametrize("kind", BLOCKS)
    @pytest.mark.parametrize("number", [np.nan, np.inf])
    def test_scale_that_is_not_finite(self, kind, number):
        raw = bytearray(quantize(np.ones((2, 32)), kind).tobytes())
        raw[BLOCKS[kind].n_bytes :][:2] = b""
        raw[BLOCKS[kind].n_bytes : BLOCKS[kind].n_bytes + 2] = np.float16(number).tobytes()
        with pytest.raises(ValueError, match="not finite"):
            BLOCKS[kind].dequantize(bytes(raw))


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_file_holds_these_tensors(small, tmp_path, kind):
    checkpoint = load_ggml(write_ggml(tmp_path / f"ggml-my.en-{kind}.bin", small, kind))
    assert checkpoint.config.dims == DIMS and checkpoint.config.alignment_heads is None
    assert checkpoint.config.name == ("my.en" if kind in BLOCKS else f"my.en-{kind}")
    assert checkpoint.metadata["format"] == f"whisper.cpp ggml, {kind}"
    expected = f"{kind}, dequantized to float32" if kind in BLOCKS else None
    assert checkpoint.metadata.get("quantization") == expected
    tensors = rounded(small, kind)
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor), name


@pytest.mark.parametrize("kind", [kind for kind in FILE_TYPES if kind != "f32"])
@torch.no_grad()
def test_same_logits_as_whisper_cpp(medium, tmp_path, kind):
    """whisper.cpp rounds activations to float16, or to eight bits before a quantized weight.

    Not for float32: there its released build stops at the first convolution.
    """
    path = write_ggml(tmp_path / f"ggml-x-{kind}.bin", medium, kind)
    config = medium.config
    mel = torch.randn(80, config.encoder.n_frames, generator=torch.Generator().manual_seed(0)) * 0.3
    tokens = [5, 200, 17, 3, 64]
    theirs = whisper_cpp_logits(path, mel, tokens, tmp_path)
    ours, original = (loaded(c)(mel[None], torch.tensor([tokens]))[0] for c in (load_ggml(path), medium))
    error = record("ggml file, whisper.cpp", {kind: relative_l2(ours, theirs)})
    assert error < (1.5e-2 if kind == "f16" else 3e-2)
    if kind in ("q4_0", "q4_1", "q5_0", "q5_1"):  # the error of the weights' own rounding is larger
        assert error < 0.5 * relative_l2(original, theirs)


@torch.no_grad()
def test_packaged_model_in_whisper_cpp(tmp_path):
    demo = resolve("demo")
    path = write_ggml(tmp_path / "ggml-demo-q5_1.bin", demo, "q5_1")
    mel = torch.randn(80, 3000, generator=torch.Generator().manual_seed(0)) * 0.3
    tokens = [50258, 50259, 50359, 50363, 1000, 2000]
    theirs = whisper_cpp_logits(path, mel, tokens, tmp_path)
    ours = loaded(load_ggml(path))(mel[None], torch.tensor([tokens]))[0]
    assert record("ggml file, whisper.cpp", {"demo q5_1": relative_l2(ours, theirs)}) < 6e-3


def test_memory_is_the_mapped_file(small, tmp_path):
    path = write_ggml(tmp_path / "ggml-x.bin", small, "f16")
    content, checkpoint = path.read_bytes(), load_ggml(path)
    starts = {tensor.untyped_storage().data_ptr() for tensor in checkpoint.tensors.values()}
    assert max(starts) - min(starts) < len(content)
    next(iter(checkpoint.tensors.values())).zero_()
    assert path.read_bytes() == content


def test_recognition(small, tmp_path):
    assert is_ggml(write_ggml(tmp_path / "x", small, "q5_1"))
    (tmp_path / "y").write_bytes(b"GGUF" + bytes(40))
    assert not is_ggml(tmp_path / "y") and not is_ggml(tmp_path) and not is_ggml(tmp_path / "absent")


@pytest.mark.parametrize("version", [0, 1, 3])
@pytest.mark.parametrize("kind", FILE_TYPES)
def test_other_quantization_versions(small, tmp_path, kind, version):
    """Five-bit blocks are the same in version 1; floats have none."""
    data = bytearray(write_ggml(tmp_path / "ggml-x.bin", small, kind).read_bytes())
    data[44:48] = struct.pack("<i", FILE_TYPES[kind] % 1000 + 1000 * version)
    if kind in ("f32", "f16") or (kind in ("q5_0", "q5_1") and version == 1):
        (tmp_path / "ggml-x.bin").write_bytes(data)
        load_ggml(tmp_path / "ggml-x.bin")
    else:
        refused(bytes(data), tmp_path, f"{kind} of quantization version {version}")


class TestRefused:
    @pytest.fixture(scope="class")
    def tensors(self, small) -> list[bytes]:
        arrays_ = file_tensors(small.tensors)
        return [tensor_bytes(name, values, stored_type(name, values.ndim, "q5_1")) for name, values in arrays_.items()]

    @pytest.fixture(scope="class")
    def head(self) -> bytes:
        return head_bytes(DIMS, "q5_1")

    def test_unchanged(self, head, tensors, tmp_path):
        (tmp_path / "ggml-x.bin").write_bytes(head + b"".join(tensors))
        assert load_ggml(tmp_path / "ggml-x.bin").config.dims == DIMS

    @pytest.mark.parametrize(
        ("field", "value", "match"),
        [
            (0, 0x46554747, "not a whisper.cpp model"),
            (1, -1, "n_vocab at byte 8 is -1"),
            (1, 2**31 - 1, "n_vocab at byte 8 is 2147483647"),
            (3, 34, "n_heads|must be equal"),
            (4, 0, "n_heads must be a positive"),
            (5, 2**20, "blocks"),
            (5, 2, "missing encoder.blocks.1"),
            (9, 1, r"unexpected decoder\.blocks\.1"),
            (10, 128, "mel filter bank has shape"),
            (11, 2012, "file type 12 of whisper.cpp is not read"),
            (11, -1, "file type 999"),
            (12, 40000, "mel filter bank has shape"),
            (13, 2**30, "mel filter bank has shape"),
        ],
    )
    def test_sizes(self, head, tensors, tmp_path, field, value, match):
        data = bytearray(head + b"".join(tensors))
        data[4 * field : 4 * field + 4] = struct.pack("<i", value)
        refused(bytes(data), tmp_path, match)

    @pytest.mark.parametrize("value", [np.nan, 0.5, -0.001])
    def test_filter_bank(self, tensors, tmp_path, value):
        filters = np.frombuffer(head_bytes(DIMS, "f16")[56 : 56 + 80 * 201 * 4], "<f4").reshape(80, 201).copy()
        filters[3, 7] += value
        refused(head_bytes(DIMS, "q5_1", filters=filters) + b"".join(tensors), tmp_path, "mel filter bank differs")

    @pytest.mark.parametrize(("offset", "match"), [(0, "number of vocabulary"), (4, "truncated: a vocabulary entry")])
    def test_vocabulary(self, head, tensors, tmp_path, offset, match):
        data, start = bytearray(head + b"".join(tensors)), 56 + 80 * 201 * 4
        data[start + offset : start + offset + 4] = struct.pack("<I", 2**31 - 2)
        refused(bytes(data), tmp_path, match)

    @pytest.mark.parametrize(
        ("extra", "match"),
        [
            (b"\0", "1 bytes follow the last tensor"),
            (bytes(4096), "no tensor follows at byte"),
            (struct.pack("<iii", 1, 3, 0) + struct.pack("<i", 10**9) + b"abc", "truncated"),
            (struct.pack("<iii", 1, 2**31 - 1, 0) + struct.pack("<i", 1) + b"abc", "claims 2147483647 bytes"),
            (struct.pack("<iii", 3, 3, 0) + struct.pack("<iii", 2**31 - 1, 2**31 - 1, 2**31 - 1), "truncated"),
            (struct.pack("<iii", 2, 3, 0) + struct.pack("<ii", -1, -1) + b"abc", "expected positive sizes"),
            (struct.pack("<iii", 4, 3, 0) + bytes(100), "rank 4"),
            (struct.pack("<iii", 1, 3, 0) + struct.pack("<i", 1) + b"a\xff\xffdata", "not UTF-8"),
            (struct.pack("<iii", 1, 3, 12) + struct.pack("<i", 1) + b"abcdata", "abc has ggml type 12"),
            (struct.pack("<iii", 1, 3, -1) + struct.pack("<i", 1) + b"abcdata", "abc has ggml type -1"),
            (struct.pack("<iii", 1, 3, 2) + struct.pack("<i", 33) + b"abc" + bytes(99), "blocks of 32"),
            (tensor_bytes("another", np.ones(5), "f32"), "unexpected another"),
        ],
    )
    def test_extra_tensor(self, head, tensors, tmp_path, extra, match):
        refused(head + b"".join(tensors) + extra, tmp_path, match)

    def test_tensors(self, head, tensors, small, tmp_path):
        refused(head + b"".join([*tensors, tensors[3]]), tmp_path, "is repeated")
        refused(head + b"".join(tensors[:-1]), tmp_path, f"missing {list(file_tensors(small.tensors))[-1]}")
        refused(head, tmp_path, "missing")
        refused(b"", tmp_path, "empty")

    def test_scale(self, head, tensors, small, tmp_path):
        names = list(file_tensors(small.tensors))
        index = names.index("encoder.blocks.0.mlp.0.weight")
        damaged = bytearray(tensors[index])
        damaged[-24:-22] = np.float16(np.nan).tobytes()
        data = head + b"".join([*tensors[:index], bytes(damaged), *tensors[index + 1 :]])
        refused(data, tmp_path, r"encoder\.blocks\.0\.mlp\.0\.weight: a q5_1 block has a scale that is not finite")

    def test_vocabulary_of_any_bytes(self, small, tmp_path):
        """Tokens are bytes, and some are empty: nothing of them is decoded."""
        assert load_ggml(write_ggml(tmp_path / "ggml-x.bin", small, "f32"))

    @given(data=st.data())
    @settings(max_examples=60)
    def test_damage(self, head, tensors, tmp_path_factory, data):
        content = bytearray(head + b"".join(tensors))
        start = len(head)
        where = st.one_of(st.integers(0, 60), st.integers(start - 70, start + 500), st.integers(0, len(content) - 1))
        damage(data, content, where)
        path = tmp_path_factory.mktemp("damaged") / "ggml-x.bin"
        path.write_bytes(content)
        is_ggml(path)
        try:
            checkpoint = load_ggml(path)
        except CheckpointError:
            return
        assert sum(t.nbytes for t in checkpoint.tensors.values()) <= 8 * len(content)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["f16", "q5_1"])
@torch.no_grad()
def test_real_model_transcribes_like_whisper_cpp(tmp_path, kind):
    """tiny.en written as a ggml file: greedy tokens of both, token by token on our own transcript."""
    parts, config = package_files("tiny.en")
    released = load_ctranslate2_parts(parts, source="tiny.en", config=json.loads(config.read_text()))
    path = write_ggml(tmp_path / f"ggml-tiny.en-{kind}.bin", released, kind)
    checkpoint = load_ggml(path)
    assert checkpoint.config.dims == RELEASED["tiny.en"].dims and checkpoint.config.name.startswith("tiny.en")
    if kind == "f16":
        float16_names = {name for name in released.tensors if checkpoint.tensors[name].dtype == torch.float16}
        assert len(float16_names) == 67 and all(
            torch.equal(checkpoint.tensors[n], released.tensors[n]) for n in float16_names
        )
    model = HookedWhisper(copy.copy(checkpoint.config)).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in checkpoint.tensors.items()})
    clip = Path(hooked_whisper.__file__).parent / "demo" / "clips" / "sentences-00.flac"
    samples, sample_rate = soundfile.read(clip, dtype="float32")
    mel = model.to_mel(torch.from_numpy(samples), sample_rate=sample_rate)[0]
    tokens = [50257, 50362]  # start of transcript, no timestamps
    encoder_out = model.embed_audio(mel[None])
    while tokens[-1] != 50256 and len(tokens) < 30:
        ours = model.logits(torch.tensor([tokens]), encoder_out)[0]
        tokens.append(int(ours[-1].argmax()))
    theirs = whisper_cpp_logits(path, mel, tokens[:-1], tmp_path)
    assert len(tokens) > 6
    assert theirs[1:].argmax(1).tolist() == tokens[2:]
    error = record("ggml file, whisper.cpp", {f"tiny.en {kind}": relative_l2(ours, theirs)})
    assert error < (1e-2 if kind == "f16" else 3e-2)
