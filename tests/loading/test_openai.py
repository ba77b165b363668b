"""openai-whisper's files, released names and loaded models."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.config import RELEASED
from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading import from_openai_model, load_openai_file, resolve
from hooked_whisper.loading.alignment_heads import released_heads
from tests.core.twins import Twins
from tests.loading.sources import TOLERANCE, loaded, logits_error, save_openai, small_twins

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")


def test_file_gives_the_same_logits(twins: Twins, tmp_path):
    checkpoint = resolve(save_openai(twins.openai, tmp_path / "mine.pt"))
    assert checkpoint.config.name == "mine"
    assert checkpoint.config.dims == twins.dims
    assert logits_error(checkpoint, twins) < TOLERANCE


def test_file_of_released_size(tiny: Twins, tmp_path):
    checkpoint = resolve(str(save_openai(tiny.openai, tmp_path / "tiny.pt")))
    assert checkpoint.config.dims == tiny.dims
    assert logits_error(checkpoint, tiny, batch=1) < TOLERANCE


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_each_vocabulary(n_vocab, tmp_path):
    twins = small_twins(n_vocab)
    checkpoint = load_openai_file(save_openai(twins.openai, tmp_path / "v.pt"))
    model = loaded(checkpoint)
    assert model.is_multilingual == (n_vocab > 51864)
    assert model.num_languages == twins.openai.num_languages
    assert logits_error(checkpoint, twins) < TOLERANCE


def test_half_precision_file_loads_as_float32(one_block: Twins, tmp_path):
    checkpoint = load_openai_file(save_openai(one_block.openai, tmp_path / "h.pt", torch.float16))
    model = loaded(checkpoint)
    assert model.dtype == torch.float32
    assert torch.equal(model.W_E, one_block.openai.decoder.token_embedding.weight.half().float())


def test_loaded_model_with_its_alignment_heads(odd: Twins):
    checkpoint = from_openai_model(odd.openai)
    assert logits_error(checkpoint, odd) < TOLERANCE
    heads = loaded(checkpoint).alignment_heads.to_dense()
    assert torch.equal(heads, odd.openai.alignment_heads.to_dense())


def test_loaded_model_is_copied(one_block: Twins):
    model = loaded(resolve(one_block.openai))
    before = one_block.openai.decoder.token_embedding.weight.clone()
    with torch.no_grad():
        model.W_E.zero_()
    assert torch.equal(one_block.openai.decoder.token_embedding.weight, before)


def test_mlp_of_another_width_is_named(tmp_path):
    openai = small_twins().openai
    openai.encoder.blocks[0].mlp[0] = torch.nn.Linear(16, 40)
    path = save_openai(openai, tmp_path / "wide.pt")
    with pytest.raises(
        CheckpointError, match=r"encoder\.blocks\.0\.mlp\.0\.weight has shape \(40, 16\) instead of \(64"
    ):
        resolve(path)


def test_published_alignment_heads():
    counts = {name: len(released_heads(name, config.decoder)) for name, config in RELEASED.items()}
    assert counts == {
        "tiny": 6, "base": 8, "small": 10, "medium": 6, "tiny.en": 8, "base.en": 5, "small.en": 19, "medium.en": 18,
        "large-v1": 9, "large-v2": 23, "large-v3": 10, "large-v3-turbo": 6,
    }  # fmt: skip
