"""CTranslate2 checkpoints, against its converter, its runtime and transformers."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from whisper.model import ModelDimensions

from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import huggingface_name
from hooked_whisper.loading.checkpoint import UNEMBED_WEIGHT, Checkpoint
from hooked_whisper.loading.ctranslate2 import is_ctranslate2, load_ctranslate2, load_ctranslate2_parts
from tests.core.parity import record, relative_l2
from tests.core.twins import Twins, random_openai, to_core, to_hf
from tests.loading.ctranslate2_files import NO_TIMESTAMPS, SOT, RawFile, convert, save_transformers, split_file
from tests.loading.damage import damage
from tests.loading.real_packages import package_files
from tests.loading.sources import TOLERANCE, edit_json, loaded

DIMS = ModelDimensions(80, 12, 24, 3, 2, 67, 9, 24, 3, 3)  # odd sizes: width 24, 3 heads, 2 + 3 blocks
QUANTIZATIONS = (
    None, "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16",
)  # fmt: skip
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.fixture(scope="module")
def small() -> Twins:
    openai = random_openai(DIMS, seed=3)
    return Twins(openai, to_hf(openai), to_core(openai))


@pytest.fixture(scope="module")
def folders(small: Twins, tmp_path_factory) -> dict[str | None, Path]:
    root = tmp_path_factory.mktemp("ctranslate2")
    source = save_transformers(small.hf, root / "transformers")
    return {name: convert(source, root / str(name), name) for name in QUANTIZATIONS}


@pytest.fixture(scope="module")
def raw(folders) -> RawFile:
    return RawFile.read(folders["float32"] / "model.bin")


@pytest.fixture
def changed(raw: RawFile) -> RawFile:
    return copy.deepcopy(raw)


def originals(twins: Twins, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that were converted, under our names."""
    state = twins.hf.state_dict()
    return {name: state[huggingface_name(name)] for name in checkpoint.tensors}


def written(file: RawFile, folder: Path) -> Path:
    path = folder / "model.bin"
    path.write_bytes(file.to_bytes())
    return path


def refused(file: RawFile | bytes, folder: Path, match: str) -> None:
    path = folder / "model.bin"
    path.write_bytes(file if isinstance(file, bytes) else file.to_bytes())
    with pytest.raises(CheckpointError, match=match) as info:
        load_ctranslate2(path)
    assert str(path) in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_converted_model(small: Twins, folders, quantization):
    checkpoint = load_ctranslate2(folders[quantization])
    assert checkpoint.config.dims == DIMS
    assert checkpoint.config.name == str(quantization)
    assert checkpoint.config.alignment_heads == tuple((block, head) for block in (1, 2) for head in range(3))
    expected = f"{quantization[:5].rstrip('_')}, dequantized to float32" if "int" in str(quantization) else None
    assert checkpoint.metadata.get("quantization") == expected
    assert UNEMBED_WEIGHT not in checkpoint.tensors
    # names and attributes of odd lengths shift the data: not every tensor can be aligned
    assert any(tensor.data_ptr() % tensor.element_size() for tensor in checkpoint.tensors.values())


@pytest.mark.parametrize("quantization", [None, "float32", "float16", "bfloat16"])
def test_floats_are_bit_equal(small: Twins, folders, quantization):
    checkpoint = load_ctranslate2(folders[quantization])
    dtype = FLOATS.get(quantization, torch.float32)
    for name, original in originals(small, checkpoint).items():
        assert checkpoint.tensors[name].dtype == dtype
        assert torch.equal(checkpoint.tensors[name], original.to(dtype)), name


@pytest.mark.parametrize("quantization", ["int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16"])
def test_integers_are_within_their_rounding(small: Twins, folders, quantization):
    checkpoint = load_ctranslate2(folders[quantization])
    dtype = {"int8_float16": torch.float16, "int8_bfloat16": torch.bfloat16}.get(quantization, torch.float32)
    n_quantized, worst = 0, 0.0
    for name, original in originals(small, checkpoint).items():
        tensor = checkpoint.tensors[name]
        is_weight = name.endswith(".weight") and "ln" not in name.split(".")[-2]
        if not is_weight:
            assert torch.equal(tensor, original.to(dtype)), name
            continue
        n_quantized += 1
        assert tensor.dtype == torch.float32
        if quantization == "int16":
            fused = 2**-10 * original.abs().max() / 2  # its own maximum at most: fused layers share one scale
            step = fused if not name.endswith((".query.weight", ".key.weight", ".value.weight")) else 2 * fused
        else:
            step = original.flatten(1).abs().amax(1).reshape(-1, *[1] * (original.ndim - 1)) / 127 / 2
        worst = max(worst, float(((tensor - original).abs() / step).max()))
    assert n_quantized == 2 + 1 + 2 * 6 + 3 * 10  # convolutions, embedding, encoder and decoder blocks
    assert 0.5 < worst < 1.0001


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@torch.no_grad()
def test_same_logits_as_transformers_with_these_weights(small: Twins, folders, quantization):
    checkpoint = load_ctranslate2(folders[quantization])
    hf = copy.deepcopy(small.hf)
    if quantization in FLOATS:
        hf = hf.to(FLOATS[quantization]).float()
    elif "int" in str(quantization):
        rounded = {huggingface_name(name): tensor.float() for name, tensor in checkpoint.tensors.items()}
        assert hf.load_state_dict(rounded, strict=False).missing_keys == ["proj_out.weight"]
    mel, tokens = small.mel(2), small.tokens(7, batch=2)
    error = relative_l2(loaded(checkpoint)(mel, tokens), hf(input_features=mel, decoder_input_ids=tokens).logits)
    assert record("ctranslate2 file, transformers", {str(quantization): error}) < TOLERANCE


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@torch.no_grad()
def test_same_activations_as_the_ctranslate2_runtime(small: Twins, folders, quantization):
    """The runtime reads the same file by itself and computes in float32."""
    model = loaded(load_ctranslate2(folders[quantization]))
    runtime = ctranslate2.models.Whisper(str(folders[quantization]), compute_type="float32", intra_threads=1)
    mel = small.mel()
    encoded = runtime.encode(ctranslate2.StorageView.from_array(mel.numpy()))
    errors = {f"{quantization} encoder": relative_l2(model.embed_audio(mel), torch.from_numpy(np.array(encoded)))}
    options = {"beam_size": 1, "max_length": 8, "suppress_blank": False, "suppress_tokens": []}
    result = runtime.generate(
        ctranslate2.StorageView.from_array(mel.numpy()), [[SOT, NO_TIMESTAMPS]], return_logits_vocab=True, **options
    )[0]
    theirs = torch.from_numpy(np.stack([np.array(step).ravel() for step in result.logits[0]]))
    tokens = torch.tensor([[SOT, NO_TIMESTAMPS, *result.sequences_ids[0]]])
    ours = model(mel, tokens)[0, 1 : 1 + len(theirs)]
    finite = torch.isfinite(theirs) & (theirs > -1e9)  # it bans some tokens
    assert finite.float().mean() > 0.5
    errors[f"{quantization} logits"] = relative_l2(ours[finite], theirs[finite])
    assert record("ctranslate2 file, ctranslate2 runtime", errors) < TOLERANCE


def test_other_widths(tmp_path):
    """128 mels, more decoder than encoder blocks and the reverse, one head, as distilled models have it."""
    for dims in (
        ModelDimensions(128, 20, 16, 1, 1, 50, 10, 16, 2, 4),
        ModelDimensions(80, 8, 40, 5, 3, 33, 6, 40, 5, 1),
    ):
        openai = random_openai(dims)
        folder = save_transformers(to_hf(openai), tmp_path / f"hf{dims.n_mels}")
        checkpoint = load_ctranslate2(convert(folder, tmp_path / f"ct{dims.n_mels}", "int8_float16"))
        assert checkpoint.config.dims == dims


def test_equal_tensors_are_stored_once(small: Twins, tmp_path):
    """The converter makes aliases of all equal tensors, here the norms of an untrained model."""
    fresh = WhisperForConditionalGeneration(small.hf.config)
    folder = convert(save_transformers(fresh, tmp_path / "hf"), tmp_path / "ct", "float32")
    assert len(RawFile.read(folder / "model.bin").aliases) > 20
    checkpoint = load_ctranslate2(folder)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor, fresh.state_dict()[huggingface_name(name)]), name


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_untied_projection(small: Twins, tmp_path, quantization):
    untied = copy.deepcopy(small.hf)
    untied.config.tie_word_embeddings = False
    untied.proj_out.weight = torch.nn.Parameter(torch.randn_like(untied.proj_out.weight))
    folder = convert(save_transformers(untied, tmp_path / "hf"), tmp_path / "ct", quantization)
    checkpoint = load_ctranslate2(folder)
    error = (checkpoint.tensors[UNEMBED_WEIGHT] - untied.proj_out.weight).abs().max()
    assert error == 0 if quantization == "float32" else 0 < error < 4 / 127


def test_memory_is_the_mapped_file(folders):
    checkpoint = load_ctranslate2(folders["float16"])
    starts = {tensor.untyped_storage().data_ptr() for tensor in checkpoint.tensors.values()}
    size = (folders["float16"] / "model.bin").stat().st_size
    assert max(starts) - min(starts) < size
    content = (folders["float16"] / "model.bin").read_bytes()
    next(iter(checkpoint.tensors.values())).zero_()  # a private mapping: the file stays as it was
    assert (folders["float16"] / "model.bin").read_bytes() == content


@pytest.mark.parametrize("cuts", [[100], [3000], [40001, 40002, 40003], [1, 2, 3, 5, 9, 20000]])
def test_parts_give_the_same_tensors(folders, tmp_path, cuts):
    shutil.copy(folders["int8_float16"] / "model.bin", tmp_path)
    parts = split_file(tmp_path / "model.bin", cuts)
    whole = load_ctranslate2(folders["int8_float16"])
    joined = load_ctranslate2_parts(parts, source="package x", config={"alignment_heads": [[0, 1], [2, 2]]})
    assert joined.source == "package x" and joined.config.alignment_heads == ((0, 1), (2, 2))
    assert joined.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(joined.tensors[name], tensor) for name, tensor in whole.tensors.items())
    with pytest.raises(CheckpointError, match="package x"):
        load_ctranslate2_parts(parts[:-1], source="package x", config=None)
    with pytest.raises(CheckpointError, match="package x"):
        load_ctranslate2_parts([], source="package x", config=None)


def test_without_config(folders, tmp_path):
    shutil.copy(folders["float16"] / "model.bin", tmp_path / "other.bin")
    checkpoint = load_ctranslate2(tmp_path / "other.bin")
    assert checkpoint.config.name == "other" and checkpoint.config.alignment_heads is None


@pytest.mark.parametrize("heads", [[[9, 0]], [[0, -1]], [[0]], "all", 3, [[None, 1]], [[1e400, 0]]])
def test_alignment_heads_that_do_not_exist(folders, tmp_path, heads):
    shutil.copytree(folders["float16"], tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", alignment_heads=heads)
    with pytest.warns(UserWarning, match="alignment heads"):
        assert load_ctranslate2(tmp_path / "model").config.alignment_heads is None


def test_config_that_is_not_json(folders, tmp_path):
    shutil.copytree(folders["float16"], tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_ctranslate2(tmp_path / "model")


@pytest.mark.parametrize("revision", [1, 2])
def test_earlier_revision(folders, raw, changed, tmp_path, revision):
    """The same variables; GELU had another number."""
    changed.revision = revision
    changed.put("decoder/activation", np.array(1, np.int8))
    checkpoint = load_ctranslate2(written(changed, tmp_path))
    tensors = load_ctranslate2(folders["float32"]).tensors
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in tensors.items())
    refused(changed.put("decoder/activation", np.array(3, np.int8)), tmp_path, "decoder/activation is 3, expected 1")


def test_recognition(folders, tmp_path):
    assert all(is_ctranslate2(folder) and is_ctranslate2(folder / "model.bin") for folder in folders.values())
    for name, content in {"empty": b"", "text": b"hello, world", "zeros": bytes(99), "zip": b"PK\3\4" * 9}.items():
        (tmp_path / name).write_bytes(content)
        assert not is_ctranslate2(tmp_path / name)
    assert not is_ctranslate2(tmp_path) and not is_ctranslate2(tmp_path / "absent")


class TestRefused:
    def test_other_versions(self, changed, tmp_path):
        changed.version = 5
        refused(changed, tmp_path, "binary version 5")
        changed.version, changed.revision = 6, 4
        refused(changed, tmp_path, "revision 4")
        changed.revision, changed.spec = 3, "TransformerSpec"
        refused(changed, tmp_path, "TransformerSpec")
        assert is_ctranslate2(tmp_path / "model.bin")

    @pytest.mark.parametrize(
        ("name", "value", "match"),
        [
            ("decoder/pre_norm", np.array(0, np.int8), "pre_norm is 0, expected 1"),
            ("decoder/scale_embeddings", np.array(1, np.int8), "scale_embeddings is 1, expected 0"),
            ("decoder/activation", np.array(0, np.int8), "activation is 0, expected 3"),
            ("decoder/new_option", np.array(2.5, np.float32), "new_option is 2.5, expected 0"),
            ("decoder/new_option", np.array(np.nan, np.float32), "new_option is nan"),
            ("decoder/num_heads", np.array(5, np.int16), "n_heads 5"),
            ("decoder/num_heads", np.array(0, np.int16), "num_heads is 0"),
            ("encoder/num_heads", np.array(-3, np.int16), "num_heads is -3"),
            ("encoder/num_heads", np.array(np.nan, np.float32), "num_heads is nan"),
            ("encoder/extra", np.zeros(3, np.float32), "unexpected encoder/extra"),
            ("encoder/layer_7/extra", np.zeros(3, np.float32), "encoder has 3 layers"),
            ("encoder/conv1/weight", np.zeros((24, 80), np.float32), "conv1/weight is of shape"),
            ("encoder/conv1/bias", np.zeros(25, np.float32), r"conv1/bias has shape \(25,\)"),
            ("encoder/layer_0/self_attention/linear_0/weight", np.zeros((71, 24), np.float32), "71 rows"),
            ("encoder/layer_0/self_attention/linear_0/weight", np.zeros((72, 23), np.float32), r"weight\[key\] has"),
            ("encoder/conv1/bias", np.zeros(24, np.int32), "conv1/bias is torch.int32 without"),
            ("encoder/conv1/bias", np.zeros(24, np.int8), "conv1/bias is torch.int8 without"),
            ("decoder/embeddings/weight", np.zeros((67, 27), np.float32), "27 must be equal"),
            ("x" * 300, np.zeros(3, np.float32), "claims 300 bytes"),
            ("a\nb", np.zeros(3, np.float32), "not printable"),
            ("", np.zeros(3, np.float32), "is empty"),
            ("cube", np.zeros((1, 1, 1, 1), np.float32), "cube has rank 4"),
            ("nothing", np.zeros((3, 0), np.float32), "positive sizes"),
        ],
    )  # fmt: skip
    def test_variable(self, changed, tmp_path, name, value, match):
        refused(changed.put(name, value), tmp_path, match)

    @pytest.mark.parametrize("name", ["encoder/num_heads", "encoder/conv1/bias", "encoder/layer_0/ffn/linear_0/weight"])
    def test_missing(self, changed, tmp_path, name):
        refused(changed.drop(name), tmp_path, name)

    def test_duplicate_variable(self, changed, tmp_path):
        changed.variables.append(changed.variables[0])
        refused(changed, tmp_path, f"{changed.variables[0][0]}' is repeated")

    @pytest.mark.parametrize("alias", [("a", "b"), ("encoder/conv1/bias", "encoder/conv2/bias"), ("a", "a")])
    def test_alias(self, changed, tmp_path, alias):
        changed.aliases.append(alias)
        refused(changed, tmp_path, "alias")

    def test_projection_without_alias(self, changed, tmp_path):
        changed.aliases.clear()
        refused(changed, tmp_path, "missing decoder/projection/weight")

    @pytest.mark.parametrize("value", [1e-3, float("nan")])
    @pytest.mark.parametrize("layer", ["encoder/layer_1/self_attention/linear_0", "decoder/layer_2/attention/linear_1"])
    def test_key_bias(self, changed, tmp_path, layer, value):
        bias = changed.array(f"{layer}/bias")
        bias[24 if "self" in layer else 0] = value
        refused(changed.put(f"{layer}/bias", bias), tmp_path, f"{layer}/bias has a key bias")

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
    def test_scale(self, folders, tmp_path, value):
        file, name = RawFile.read(folders["int8"] / "model.bin"), "encoder/conv2/weight_scale"
        scale = file.array(name)
        scale[3] = value
        refused(file.put(name, scale), tmp_path, "weight_scale has values that are not positive and finite")
        refused(file.put(name, scale[:5]), tmp_path, r"weight_scale is torch.float32 of shape \(5,\)")
        refused(file.put(name, np.ones(24, np.int32)), tmp_path, "weight_scale is torch.int32")
        refused(file.drop(name), tmp_path, "conv2/weight is torch.int8 without")

    @pytest.mark.parametrize("n", [1, 7, 4096])
    def test_trailing_bytes(self, raw, tmp_path, n):
        refused(raw.to_bytes() + bytes(n), tmp_path, f"{n} bytes follow the end")

    def test_wrong_length(self, raw, tmp_path):
        data = bytearray(raw.to_bytes())
        data[22:26] = b"\xff\xff\xff\xff"  # the number of variables
        refused(bytes(data), tmp_path, "number of variables at byte 26 is 4294967295, expected 0 to 20000")

    def test_dimensions_that_overflow(self, changed, tmp_path):
        changed.variables[:1] = [("big", (2**32 - 1, 2**32 - 1, 2**31), "float32", b"")]
        refused(changed, tmp_path, r"truncated: big has shape")
        changed.variables[:1] = [("big", (100, 100), "float32", b"abcd")]
        refused(changed, tmp_path, r"big claims 4 bytes; torch.float32 of shape \(100, 100\) takes 40000")

    def test_name_that_is_not_utf8(self, raw, tmp_path):
        data = bytearray(raw.to_bytes())
        data[28] = 0xFF
        refused(bytes(data), tmp_path, "not UTF-8")

    def test_unreadable(self, tmp_path):
        with pytest.raises(CheckpointError, match="absent"):
            load_ctranslate2(tmp_path / "absent")
        refused(b"", tmp_path, "empty")
        refused(b"hello world, how are you", tmp_path, "not a CTranslate2 model")

    @given(data=st.data())
    @settings(max_examples=60)
    def test_damage(self, folders, tmp_path_factory, data):
        """Any cut, flip or prefix is loaded or refused by our error, nothing else."""
        content = bytearray((folders["int8_float16"] / "model.bin").read_bytes())
        where = st.one_of(st.integers(0, 2000), st.integers(0, len(content) - 1))
        damage(data, content, where)
        path = tmp_path_factory.mktemp("damaged") / "model.bin"
        path.write_bytes(content)
        is_ctranslate2(path)
        try:
            checkpoint = load_ctranslate2(path)
        except CheckpointError:
            return
        assert sum(t.nbytes for t in checkpoint.tensors.values()) <= 4 * len(content)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("tiny.en", ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))),
        ("base", ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6))),
    ],
)
def test_real_package(name, heads):
    parts, config = package_files(name)
    data = json.loads(config.read_text())
    checkpoint = load_ctranslate2_parts(parts, source=name, config=data)
    assert checkpoint.config.dims == RELEASED[name].dims
    assert checkpoint.config.alignment_heads == heads
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())
    if name == "tiny.en":
        whole = load_ctranslate2(parts[0].parent)
        assert all(torch.equal(whole.tensors[key], tensor) for key, tensor in checkpoint.tensors.items())
