"""On real weights and real speech our activations are openai-whisper's and transformers'."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from hooked_whisper.loading import openai_name
from tests.core.parity import Errors, compare, hf_activations, openai_activations, record
from tests.real.conftest import Clip, RealTwins, mels

pytestmark = pytest.mark.real

FLOAT32 = 1e-5
FLOAT64 = 1e-10


def tokens_of(twins: RealTwins, clips: list[Clip]) -> Tensor:
    """Prompt and text, ``[clip, token]``, cut to the shortest."""
    rows = [twins.ours.to_tokens(f" {clip.text}")[0] for clip in clips]
    return torch.stack([row[: min(map(len, rows))] for row in rows])


def openai_errors(twins: RealTwins, clips: list[Clip]) -> Errors:
    mel, tokens = mels(clips), tokens_of(twins, clips)
    return compare(twins.ours, openai_activations(twins.openai, mel, tokens), mel, tokens)


def test_mel_equals_openai_whisper(twins: RealTwins, clips: list[Clip]):
    ours, theirs = twins.ours.to_mel([clip.samples for clip in clips]), mels(clips)
    error = float((ours - theirs).abs().max())
    record(f"{twins.name}: mel, absolute", {"mel": error})
    assert error < 1e-5


def test_parity_with_openai_whisper(twins: RealTwins, clips: list[Clip]):
    """Residuals behind every block, cross-attention patterns, encoder output, logits."""
    errors = openai_errors(twins, clips)
    assert record(f"{twins.name}: openai-whisper float32", errors) < FLOAT32, errors


def test_parity_with_transformers(twins: RealTwins, clips: list[Clip]):
    """Residuals before every block, all patterns, encoder output, logits."""
    mel, tokens = mels(clips[:1]), tokens_of(twins, clips[:1])
    errors = compare(twins.ours, hf_activations(twins.hf, mel, tokens), mel, tokens)
    assert record(f"{twins.name}: transformers float32", errors) < FLOAT32, errors


def test_parity_with_transformers_in_float64(twins: RealTwins, clips: list[Clip]):
    mel, tokens = mels(clips[:1]).double(), tokens_of(twins, clips[:1])
    ours, theirs = twins.in_float64()
    errors = compare(ours, hf_activations(theirs, mel, tokens), mel, tokens)
    assert record(f"{twins.name}: transformers float64", errors) < FLOAT64, errors


def _scaled(model: torch.nn.Module) -> None:
    model.get_parameter("encoder.blocks.1.mlp.up.weight").data[0, 0] += 0.05


def _no_bias(model: torch.nn.Module) -> None:
    model.get_parameter("decoder.blocks.2.cross_attn.value.bias").data.zero_()


def _heads_swapped(model: torch.nn.Module) -> None:
    weight = model.get_parameter("decoder.blocks.0.cross_attn.query.weight").data
    weight[:128] = weight[:128].roll(64, 0)


def _position_shifted(model: torch.nn.Module) -> None:
    positions = model.get_parameter("decoder.positional_embedding").data
    positions[:] = positions.roll(1, 0)


@pytest.mark.parametrize("mistake", [_scaled, _no_bias, _heads_swapped, _position_shifted])
def test_parity_detects_a_mistake(english_only: RealTwins, clips: list[Clip], mistake):
    broken = copy.deepcopy(english_only.ours)
    mistake(broken)
    errors = openai_errors(RealTwins("broken", broken, english_only.openai), clips[:1])
    assert max(errors.values()) > 10 * FLOAT32, mistake.__name__


def test_weights_have_the_released_checksum(twins: RealTwins):
    """Stored in half precision as published, and every tensor is used."""
    assert twins.ours.metadata["source"].startswith("installed package")
    assert twins.ours.cfg.name == twins.name
    for name, tensor in twins.ours.state_dict().items():
        assert torch.equal(tensor, tensor.half().float()), name
        assert torch.equal(tensor, twins.openai.state_dict()[openai_name(name)]), name


def test_alignment_heads_equal_openai_whisper(twins: RealTwins):
    """openai-whisper's list under the model's name against the one that comes with the weights."""
    assert torch.equal(twins.ours.alignment_heads.to_dense(), twins.openai.alignment_heads.to_dense())
