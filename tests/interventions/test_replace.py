"""Replacing encoder outputs: sources, spans, clips, hooks, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.interventions import baseline_encoding, replace_span
from hooked_whisper.interventions.replace import replace_encoder
from hooked_whisper.protocols import Interval
from tests.patching.conftest import N_POSITIONS as N

ENCODED = torch.randn(3, N, 16, generator=torch.Generator().manual_seed(0))
SOURCE = torch.randn(1, N, 16, generator=torch.Generator().manual_seed(1))


@given(st.integers(0, N), st.integers(0, N))
def test_replacement_covers_exactly_the_span(model, a: int, b: int) -> None:
    low, high = sorted((a, b))
    edit = replace_encoder(model, (low, high), SOURCE)
    assert torch.equal(edit(ENCODED), replace_span(ENCODED, low, high, SOURCE))
    assert torch.equal(replace_encoder(model, (low, high), ENCODED)(ENCODED), ENCODED)


def test_seconds_and_words(model) -> None:
    edits = [
        replace_encoder(model, (0.1, 0.2), SOURCE, unit="seconds"),
        replace_encoder(model, Interval(0.1, 0.2, "w"), SOURCE[0]),
    ]
    expected = replace_span(ENCODED, 0.1, 0.2, SOURCE, unit="seconds")
    assert all(torch.equal(edit(ENCODED), expected) for edit in edits)


def test_named_sources(model) -> None:
    padding = replace_encoder(model, None)(ENCODED)
    assert (
        torch.allclose(padding, baseline_encoding(model, "zero audio").expand_as(ENCODED)) and not padding.requires_grad
    )
    mean = replace_encoder(model, [3], "mean", clips=ENCODED)(ENCODED)
    assert torch.allclose(mean[:, 3], ENCODED.mean(0)[3].expand(3, -1)) and torch.equal(mean[:, :3], ENCODED[:, :3])


def test_each_clip_has_its_own_spans(model) -> None:
    got = replace_encoder(model, {0: (2, 4), 2: [0, (9, 11)]}, SOURCE)(ENCODED)
    changed = (got != ENCODED).all(-1)
    assert [row.nonzero().flatten().tolist() for row in changed] == [[2, 3], [], [0, 9, 10]]


def test_as_hooks_it_is_live(model) -> None:
    edit = replace_encoder(model, (3, 9), SOURCE)
    mel = torch.randn(2, 80, 2 * N)
    with torch.no_grad():
        plain = model.embed_audio(mel)
        with model.hooks(fwd_hooks=edit.hooks):
            assert torch.equal(model.embed_audio(mel), edit(plain))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m: replace_encoder(m, (0, 3), "paddin"), "'padding'"),
        (lambda m: replace_encoder(m, (0, 3), "mean"), "clips"),
        (lambda m: replace_encoder(m, (0, N + 1)), "24"),
        (lambda m: replace_encoder(m, {5: (0, 3)}, SOURCE)(ENCODED), "clip 5"),
        (lambda m: replace_encoder(m, (0, 3), SOURCE[:, :5])(ENCODED), "same size"),
    ],
)
def test_errors_explain_the_remedy(model, unchecked, build, words: str) -> None:
    with pytest.raises(HookedWhisperError, match=words):
        build(model)
