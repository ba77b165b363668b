"""The class a user meets: what it takes, what it prints, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

import hooked_whisper
from hooked_whisper import DecoderConfig, EncoderConfig, HookedWhisper, WhisperConfig
from hooked_whisper.errors import UnknownModelError


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    torch.manual_seed(0)
    cfg = WhisperConfig(EncoderConfig(80, 100, 16, 2, 1, 32), DecoderConfig(51865, 32, 16, 2, 1, 32), "small one")
    return HookedWhisper.from_pretrained(cfg)


def test_public_names_exist():
    for name in hooked_whisper.__all__:
        assert getattr(hooked_whisper, name) is not None


def test_repr_is_one_line(model):
    assert repr(model) == "HookedWhisper('small one', 1+1 blocks, d_model 16, 2 heads, cpu, float32)"


def test_from_audio_file_to_logits(model, tmp_path):
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal(16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    mel = model.to_mel(tmp_path / "a.wav")
    assert mel.shape == (1, 80, 200)
    assert torch.allclose(mel, model.to_mel(audio))
    tokens = model.to_tokens(" very", language="en")
    assert model.to_str_tokens(tokens[0]) == [
        "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>", " very",
    ]  # fmt: skip
    assert tokens[0, -1] == model.to_single_token(" very")
    logits = model(mel, tokens)
    assert logits.shape == (1, 5, 51865)
    out, cache = model.run_with_cache(mel, tokens, names_filter="decoder.*.cross_attn.hook_pattern")
    assert torch.allclose(out, logits, atol=1e-5)
    assert cache["decoder", "cross_pattern", 0].shape == (1, 2, 5, 100)


def test_gradient_reaches_the_waveform(model):
    audio = (0.1 * torch.randn(16000)).requires_grad_()
    logits = model(model.to_mel(audio), model.to_tokens(" very"))
    logits[0, -1, 5].backward()
    assert audio.grad is not None and audio.grad.abs().sum() > 0


def test_save_and_load_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    again = HookedWhisper.from_pretrained(tmp_path / "mine")
    assert again.cfg == model.cfg
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("flag", ["fold_ln", "center_writing_weights", "fold_value_biases"])
def test_processing_keeps_the_logits(model, tmp_path, flag):
    model.save_pretrained(tmp_path)
    processed = HookedWhisper.from_pretrained(tmp_path, **{flag: True})
    mel, tokens = torch.randn(1, 80, 200), model.to_tokens(" very good")
    assert torch.allclose(processed(mel, tokens), model(mel, tokens), atol=1e-4)


def test_half_precision_models_run(model, tmp_path):
    model.save_pretrained(tmp_path)
    mel, tokens = torch.randn(1, 80, 200), model.to_tokens(" very good")
    reference = model(mel, tokens)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-4)):
        other = HookedWhisper.from_pretrained(tmp_path, dtype=dtype)
        assert other.dtype == dtype
        logits = other(mel.to(dtype), tokens)
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (logits - reference).norm() / reference.norm() < tolerance


def test_unknown_names_suggest_near_ones():
    with pytest.raises(UnknownModelError, match="tiny"):
        HookedWhisper.from_pretrained("tinny")
