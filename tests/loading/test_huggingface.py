"""Folders and models of transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import WhisperConfig as HFConfig
from transformers import WhisperForConditionalGeneration

from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import from_huggingface_model, huggingface_name, load_huggingface_folder, resolve
from hooked_whisper.loading.checkpoint import parameter_shapes
from hooked_whisper.loading.huggingface import _config
from tests.core.twins import Twins
from tests.loading.sources import HF_LAYOUTS, TOLERANCE, edit_json, loaded, logits_error, small_twins, write_bin

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


@pytest.mark.parametrize("layout", HF_LAYOUTS)
def test_folder_gives_the_same_logits(odd: Twins, layout, tmp_path):
    HF_LAYOUTS[layout](odd.hf, tmp_path / "mine")
    checkpoint = resolve(tmp_path / "mine")
    assert checkpoint.config.name == "mine"
    assert checkpoint.config.dims == odd.dims
    assert "decoder.unembed.weight" not in checkpoint.tensors
    assert logits_error(checkpoint, odd) < TOLERANCE


def test_folder_of_released_size(tiny: Twins, tmp_path):
    tiny.hf.save_pretrained(tmp_path)
    checkpoint = resolve(str(tmp_path))
    assert checkpoint.config.encoder == RELEASED["tiny"].encoder
    assert checkpoint.config.decoder == RELEASED["tiny"].decoder
    assert logits_error(checkpoint, tiny, batch=1) < TOLERANCE


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weight_file_with_config_beside_it(one_block: Twins, file, tmp_path):
    HF_LAYOUTS["bin" if file.endswith("bin") else "safetensors"](one_block.hf, tmp_path)
    assert logits_error(resolve(tmp_path / file), one_block) < TOLERANCE


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_each_vocabulary(n_vocab, tmp_path):
    twins = small_twins(n_vocab)
    twins.hf.save_pretrained(tmp_path)
    assert logits_error(load_huggingface_folder(tmp_path), twins) < TOLERANCE


@pytest.mark.parametrize("bare", [False, True])
def test_loaded_model(odd: Twins, bare):
    checkpoint = resolve(odd.hf.model if bare else odd.hf)
    assert logits_error(checkpoint, odd) < TOLERANCE
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())


def test_loaded_half_precision_model(one_block: Twins):
    checkpoint = from_huggingface_model(copy.deepcopy(one_block.hf).bfloat16())
    assert loaded(checkpoint).dtype == torch.float32


def test_unusual_mlp_widths_and_asymmetric_depth(tmp_path):
    torch.manual_seed(0)
    config = HFConfig(
        vocab_size=90, num_mel_bins=128, max_source_positions=10, max_target_positions=12, d_model=64,
        encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=4,
        encoder_ffn_dim=100, decoder_ffn_dim=36, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    hf = WhisperForConditionalGeneration(config).eval()
    for parameter in hf.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    hf.save_pretrained(tmp_path)
    checkpoint = resolve(tmp_path)
    assert (checkpoint.config.encoder.d_mlp, checkpoint.config.decoder.d_mlp) == (100, 36)
    mel, tokens = torch.randn(1, 128, 20), torch.randint(0, 90, (1, 5))
    with torch.no_grad():
        theirs = hf(input_features=mel, decoder_input_ids=tokens).logits
        assert ((loaded(checkpoint)(mel, tokens) - theirs).norm() / theirs.norm()) < TOLERANCE


def test_a_different_proj_out_unties(one_block: Twins, tmp_path):
    state = one_block.hf.state_dict() | {"proj_out.weight": torch.randn(67, 32)}
    write_bin(state, one_block.hf, tmp_path)
    checkpoint = resolve(tmp_path)
    model = loaded(checkpoint)
    assert torch.equal(model.W_U.T, state["proj_out.weight"])
    assert torch.equal(model.W_E, state["model.decoder.embed_tokens.weight"])


def test_untied_config_needs_proj_out(one_block: Twins, tmp_path):
    one_block.hf.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing proj_out\.weight"):
        resolve(tmp_path)


class TestAlignmentHeads:
    def test_of_a_folder(self, odd: Twins, tmp_path):
        odd.hf.save_pretrained(tmp_path)
        edit_json(tmp_path / "generation_config.json", alignment_heads=[[2, 0], [1, 2]])
        assert resolve(tmp_path).config.alignment_heads == ((2, 0), (1, 2))

    def test_of_a_loaded_model(self, odd: Twins):
        hf = copy.copy(odd.hf)
        hf.generation_config = copy.deepcopy(odd.hf.generation_config)
        hf.generation_config.alignment_heads = [[1, 1]]  # type: ignore[attr-defined]
        assert resolve(hf).config.alignment_heads == ((1, 1),)

    @pytest.mark.parametrize("heads", [[[25, 3]], [["a", 1]], 7])
    def test_those_of_a_teacher_are_dropped_with_a_warning(self, odd: Twins, tmp_path, heads):
        odd.hf.save_pretrained(tmp_path)
        edit_json(tmp_path / "generation_config.json", alignment_heads=heads)
        with pytest.warns(UserWarning, match="alignment heads"):
            assert resolve(tmp_path).config.alignment_heads is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "wav2vec2"),
        ("activation_function", "relu"),
        ("scale_embedding", True),
        ("d_model", "big"),
        ("d_model", 7.5),
        ("encoder_layers", -1),
        ("decoder_ffn_dim", None),
        ("vocab_size", None),
        ("decoder_attention_heads", 0),
        ("model_type", None),
    ],
)
def test_config_of_another_model_type_is_refused(one_block: Twins, field, value, tmp_path, unchecked):
    one_block.hf.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", **{field: value})
    with pytest.raises(CheckpointError) as info:
        resolve(tmp_path)
    assert "config.json" in str(info.value)
    assert field in str(info.value)


def test_heads_that_do_not_divide_the_width(one_block: Twins, tmp_path):
    one_block.hf.save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", decoder_attention_heads=5)
    with pytest.raises(CheckpointError, match=r"config\.json: DecoderConfig: d_model 32 is not a multiple"):
        resolve(tmp_path)


def test_missing_key_is_named_as_in_the_file(one_block: Twins, tmp_path):
    state = one_block.hf.state_dict()
    del state["model.decoder.layers.0.encoder_attn.k_proj.weight"]
    write_bin(state | {"classifier.weight": torch.zeros(2)}, one_block.hf, tmp_path)
    with pytest.raises(CheckpointError) as info:
        resolve(tmp_path)
    assert "missing model.decoder.layers.0.encoder_attn.k_proj.weight" in str(info.value)
    assert "unexpected classifier.weight" in str(info.value)
    assert "pytorch_model.bin" in str(info.value)


class TestShards:
    @pytest.fixture
    def folder(self, odd: Twins, tmp_path):
        HF_LAYOUTS["sharded safetensors"](odd.hf, tmp_path)
        return tmp_path

    def test_absent_shard(self, folder):
        shard = sorted(folder.glob("model-*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(CheckpointError, match=shard.name):
            resolve(folder)

    @pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "config.json"])
    def test_index_with_a_path_outside_the_folder(self, folder, file):
        edit_json(folder / "model.safetensors.index.json", weight_map={"a": file})
        with pytest.raises(CheckpointError, match="same folder"):
            resolve(folder)

    @pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
    def test_index_without_a_map(self, folder, weight_map):
        edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
        with pytest.raises(CheckpointError, match="weight_map"):
            resolve(folder)


def test_config_without_weights(one_block: Twins, tmp_path):
    one_block.hf.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights.*model\.safetensors"):
        resolve(tmp_path)


def test_large_v3_turbo_layout_without_memory():
    config = HFConfig(
        vocab_size=51866, num_mel_bins=128, d_model=1280, encoder_layers=32, decoder_layers=4,
        encoder_attention_heads=20, decoder_attention_heads=20, encoder_ffn_dim=5120, decoder_ffn_dim=5120,
    )  # fmt: skip
    with torch.device("meta"):
        hf = WhisperForConditionalGeneration(config)
    released = RELEASED["large-v3-turbo"]
    assert _config(config.to_dict(), "large-v3-turbo", "") == released
    ours = {huggingface_name(name): shape for name, shape in parameter_shapes(released).items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in hf.state_dict().items()}
    assert theirs.pop("proj_out.weight") == (51866, 1280)
    assert ours == theirs
