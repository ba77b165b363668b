"""Composition scores: by the definition, where they are defined, and the same however weights are processed."""

from __future__ import annotations

import copy

import pytest
import torch

from hooked_whisper.errors import ArgumentError
from hooked_whisper.loading import process_weights
from hooked_whisper.model import FactoredMatrix, WhisperCore
from hooked_whisper.model.composition import composition_scores

DEFINED = [
    ("Q", "encoder", "encoder"), ("K", "encoder", "encoder"), ("V", "encoder", "encoder"),
    ("Q", "decoder", "decoder"), ("K", "decoder", "decoder"), ("V", "decoder", "decoder"),
    ("Q", "decoder", "cross"), ("K", "encoder", "cross"), ("V", "encoder", "cross"),
    ("Q", "cross", "decoder"), ("K", "cross", "decoder"), ("V", "cross", "decoder"), ("Q", "cross", "cross"),
]  # fmt: skip


def test_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    left = FactoredMatrix(torch.randn(2, 3, 8, 4, generator=generator), torch.randn(2, 3, 4, 8, generator=generator))
    right = FactoredMatrix(torch.randn(3, 2, 8, 4, generator=generator), torch.randn(3, 2, 4, 8, generator=generator))
    scores = composition_scores(left, right)
    assert scores.shape == (2, 3, 3, 2)
    a, b = left.AB, right.AB
    for k, head, layer, other in ((0, 0, 0, 0), (1, 2, 2, 1)):
        expected = (a[k, head] @ b[layer, other]).norm() / a[k, head].norm() / b[layer, other].norm()
        torch.testing.assert_close(scores[k, head, layer, other], expected)


@pytest.mark.parametrize(("mode", "writer", "reader"), DEFINED)
def test_processing_weights_does_not_change_them(core: WhisperCore, mode, writer, reader) -> None:
    rough = copy.deepcopy(core)
    with torch.no_grad():
        for name, parameter in rough.named_parameters():
            if ".ln" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    processed = copy.deepcopy(rough)
    process_weights(processed)
    before, after = (model.all_composition_scores(mode, writer, reader) for model in (rough, processed))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert float(before.min()) >= 0 and float(before.max()) <= 1 + 1e-5


def test_an_earlier_head_comes_first(core: WhisperCore) -> None:
    n = 3
    for writer, reader, equal in (("decoder", "decoder", False), ("decoder", "cross", True), ("cross", "cross", False)):
        scores = core.all_composition_scores("Q", writer, reader)
        for left in range(n):
            for right in range(n):
                comes_before = left <= right if equal else left < right
                assert bool((scores[left, :, right] > 0).all()) == comes_before
    assert bool((core.all_composition_scores("K", "encoder", "cross") > 0).all())
    assert torch.equal(
        core.all_composition_scores("V", "encoder"), core.all_composition_scores("V", "encoder", "encoder")
    )


def test_with_gains_of_one_it_is_transformer_lens_score(core: WhisperCore) -> None:
    processed = copy.deepcopy(core)
    process_weights(processed)
    with torch.no_grad():  # TransformerLens also centers what reads the stream
        for block in processed.encoder.block_list():
            for linear in (block.attn.query, block.attn.key, block.attn.value):
                linear.weight.sub_(linear.weight.mean(1, keepdim=True))
    expected = composition_scores(processed.encoder.OV, processed.encoder.QK)
    scores = processed.all_composition_scores("Q", "encoder")
    torch.testing.assert_close(scores[0, :, 1], expected[0, :, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_what_is_not_defined_says_what_is(core: WhisperCore) -> None:
    for arguments, message in (
        (("Q", "encoder", "cross"), "as K and V, not as Q"),
        (("K", "cross", "cross"), "as Q, not as K"),
        (("Q", "encoder", "decoder"), r"encoder -> cross \(K/V\)"),
        (("Q",), r"'Q', 'encoder'"),
        (("O", "encoder"), "mode must be 'Q', 'K' or 'V'"),
        (("Q", "encode"), "did you mean 'encoder'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            core.all_composition_scores(*arguments)


def test_labels_match_the_scores(core: WhisperCore) -> None:
    labels = core.all_head_labels()
    assert len(labels) == (2 + 3 + 3) * 3 and labels[0] == "E0.0" and labels[-1] == "X2.2"
