"""Replacing encoder outputs: sources, spans, clips, hooks, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError, PatchError
from hooked_whisper.interventions import baseline_encoding, find_word, replace_span
from hooked_whisper.interventions.replace import WORD_MARGIN, replace_encoder
from hooked_whisper.protocols import Alignment, Interval
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
        replace_encoder(model, Interval(0.1, 0.2, "w"), SOURCE[0], margin=0),
    ]
    expected = replace_span(ENCODED, 0.1, 0.2, SOURCE, unit="seconds")
    assert all(torch.equal(edit(ENCODED), expected) for edit in edits)


def test_words_get_a_margin_and_numbers_do_not(model) -> None:
    word = Interval(0.2, 0.26, "w")
    wide = replace_span(ENCODED, 0.1, 0.36, SOURCE, unit="seconds")
    assert torch.equal(replace_encoder(model, word, SOURCE)(ENCODED), wide)
    assert torch.equal(replace_encoder(model, word, SOURCE, margin=WORD_MARGIN)(ENCODED), wide)
    # a margin ends at the window
    assert replace_encoder(model, Interval(0.0, 0.48, "w"), SOURCE).rows[None].spans == ((0, N),)
    mixed = replace_encoder(model, [word, 0], SOURCE).rows[None]
    assert mixed.spans[1] == (0, 1) and mixed.label == "w"
    assert replace_encoder(model, (3, 9), SOURCE, margin=0.04).rows[None].spans == ((1, 11),)


TEXT = ["Ask", "not", "what", "your", "country,", "can", "do", "for", "your", "country"]
WORDS = [Interval(0.02 * k, 0.02 * k + 0.02, label) for k, label in enumerate(TEXT)]


def test_words_by_name(model) -> None:
    by_name = replace_encoder(model, ("country", 2), SOURCE, alignment=WORDS, margin=0)
    assert torch.equal(by_name(ENCODED), replace_encoder(model, WORDS[-1], SOURCE, margin=0)(ENCODED))
    alignment = Alignment("u", "s", "", 0.48, tuple(WORDS))
    several = replace_encoder(model, {1: ["not", "can do"]}, SOURCE, alignment=[WORDS, alignment], margin=0)
    changed = (several(ENCODED) != ENCODED).all(-1)
    assert set(changed[1].nonzero().flatten().tolist()) >= {1, 5, 6} and not changed[[0, 2]].any()
    assert find_word(alignment, "your country", 2) == Interval(WORDS[8].start, WORDS[9].end, "your country")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("contry", "did you mean 'country'"),
        ("country", r"spoken 2 times: 1 at 0.08-0.10 s, 2 at 0.18-0.20 s; give \('country', 2\)"),
        (("country", 3), r"no occurrence 3 of 'country': it is spoken 2 times: .*; give \('country', 2\) for the last"),
        (("not", 2), "no occurrence 2 of 'not': it is spoken only once, at 0.02-0.04 s; give 'not'"),
        ("ask country", "do not follow each other"),
        ("xylophone", "is not spoken in 'Ask not"),
        ("  ", "the name of a word is empty"),
        (("country", True), "occurrence of 'country' is True"),
    ],
)
def test_a_word_that_is_unknown_or_ambiguous_is_answered_with_words_and_times(name, says: str) -> None:
    with pytest.raises(PatchError, match=says):
        find_word(WORDS, name)


@pytest.mark.parametrize("name", ["don't", "DON\N{RIGHT SINGLE QUOTATION MARK}T", "caf\u00e9", "cafe\u0301", "\u2014"])
def test_words_are_compared_without_the_shape_of_apostrophes_and_accents(name: str) -> None:
    words = [Interval(0.0, 1.0, " Don't"), Interval(1.0, 2.0, " Cafe\u0301,"), Interval(2.0, 3.0, " \u2014")]
    assert find_word(words, name) in words


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
        (lambda m: replace_encoder(m, (0, 3), margin=-0.1), "at least 0"),
        (lambda m: replace_encoder(m, (0, 3), margin=math.inf), "at least 0"),
        (lambda m: replace_encoder(m, "country"), "alignment="),
        (lambda m: replace_encoder(m, "country", alignment=[WORDS, WORDS]), "2 alignments for all clips"),
        (lambda m: replace_encoder(m, {3: "ask"}, alignment=[WORDS, WORDS]), "no alignment for clip 3"),
        (lambda m: replace_encoder(m, {5: (0, 3)}, SOURCE)(ENCODED), "clip 5"),
        (lambda m: replace_encoder(m, (0, 3), SOURCE[:, :5])(ENCODED), "same size"),
    ],
)
def test_errors_explain_the_remedy(model, unchecked, build, words: str) -> None:
    with pytest.raises(HookedWhisperError, match=words):
        build(model)
