from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.text import (
    WordError,
    bootstrap_interval,
    normalize_basic,
    normalize_english,
    normalizer_for,
    word_diff,
    word_error,
    word_errors,
)

words = st.lists(st.sampled_from(["a", "b", "c", "A,", "—", "d"]), max_size=7)
texts = words.map(" ".join)


def edit_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Textbook dynamic programme."""
    row = list(range(len(hypothesis) + 1))
    for i, r in enumerate(reference, 1):
        row, before = [i], row
        for j, h in enumerate(hypothesis, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (r != h)))
    return row[-1]


def test_normalizers() -> None:
    assert normalize_english("Mr. Grey won't pay TWENTY-ONE pounds, um!") == "mister gray will not pay £21"
    assert normalize_basic("Ça va (bien), merci") == "ça va merci"
    assert normalizer_for("en") is normalizer_for("English") is normalize_english
    assert normalizer_for("fr") is normalizer_for(None) is normalize_basic


# --- errors -------------------------------------------------------------------------------------------------------


def test_counts() -> None:
    error = word_error("a b c d", "a x c d e", None)
    assert (error.substitutions, error.deletions, error.insertions, error.hits) == (1, 0, 1, 3)
    assert (error.n_reference, error.errors, error.wer) == (4, 2, 0.5)
    assert word_error("a b c", "b c", None) == WordError(substitutions=0, deletions=1, insertions=0, hits=2)


@given(words, words)
def test_wer_is_the_edit_distance(reference: list[str], hypothesis: list[str]) -> None:
    error = word_error(" ".join(reference), " ".join(hypothesis), None)
    assert error.errors == edit_distance(reference, hypothesis)
    assert error.n_reference == len(reference)
    assert error.hits + error.substitutions + error.insertions == len(hypothesis)
    assert 0 <= error.wer <= max(len(reference), len(hypothesis)) / max(len(reference), 1)
    assert (error.wer == 0) == (reference == hypothesis)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_a_corpus_is_the_sum_of_its_utterances(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
    corpus = word_error(references, hypotheses, None)
    each = word_errors(references, hypotheses, None)
    assert corpus.errors == sum(e.errors for e in each) == sum(word_error(*p, None).errors for p in pairs)
    assert corpus.wer == corpus.errors / max(1, sum(len(r.split()) for r in references))


def test_empty_reference() -> None:
    assert word_error("", "").wer == 0
    assert word_error("", "a b c").wer == 3
    assert word_error("a b", "").wer == 1
    assert word_error(["", "a b"], ["x", "a b"]).wer == 0.5
    assert word_error([], []).wer == 0


def test_normalisation_applies_to_both_sides() -> None:
    assert word_error("The colour of Mr. Grey.", "the color of mister gray").wer == 0
    assert word_error("the color of mister gray", "The colour of Mr. Grey.").wer == 0
    assert word_error("A b", "a b", None).wer == 0.5
    assert word_error("A b", "a b", str.lower).wer == 0


def test_any_white_space_parts_words() -> None:
    assert word_error("a\tb\n c\u00a0d", "a b c d", None).wer == 0


def test_clips_of_different_lengths() -> None:
    for reference, hypothesis in ((["a"], ["a", "b"]), (["a"], "a"), ("a", ["a"])):
        with pytest.raises(ValueError, match="same length"):
            word_error(reference, hypothesis)


# --- bootstrap ----------------------------------------------------------------------------------------------------


def test_bootstrap_covers_the_estimate_and_narrows() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 15, 400)
    errors = rng.binomial(counts, 0.2)
    low, high = bootstrap_interval(errors, counts)
    assert low < errors.sum() / counts.sum() < high
    # standard error of a ratio of sums
    rate = errors.sum() / counts.sum()
    error = np.sqrt(((errors - rate * counts) ** 2).sum()) / counts.sum()
    assert abs((high - low) / (2 * 1.96 * error) - 1) < 0.1
    assert abs((high + low) / 2 - rate) < 0.3 * error
    few_low, few_high = bootstrap_interval(errors[:25], counts[:25])
    assert few_high - few_low > 2 * (high - low)
    narrow_low, narrow_high = bootstrap_interval(errors, counts, level=0.5)
    assert low < narrow_low < narrow_high < high


def test_bootstrap_is_seeded_and_exact_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, counts = [1, 0, 2, 5], [5, 5, 5, 0]
    assert bootstrap_interval(errors, counts, seed=1) == bootstrap_interval(errors, counts, seed=1)
    assert bootstrap_interval(errors, counts, n=50, seed=1) != bootstrap_interval(errors, counts, n=50, seed=2)
    assert bootstrap_interval([2, 2, 2], [8, 8, 8]) == (0.25, 0.25)
    assert bootstrap_interval([3], [4], n=1) == (0.75, 0.75)
    before = bootstrap_interval(errors, counts, n=101, seed=3)
    monkeypatch.setattr("hooked_whisper.text.wer._RESAMPLED_AT_ONCE", 40)  # ten at a time
    assert bootstrap_interval(errors, counts, n=101, seed=3) == before


@pytest.mark.parametrize(
    ("errors", "counts", "options"),
    [
        ([], [], {}),
        ([1], [0], {}),
        ([1, 2], [3], {}),
        ([1], [3], {"n": 0}),
        ([1], [3], {"level": 1.0}),
    ],
)
def test_bootstrap_errors(errors: list[int], counts: list[int], options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        bootstrap_interval(errors, counts, **options)


# --- diffs --------------------------------------------------------------------------------------------------------


@given(texts, texts)
def test_diff_reconstructs_both_texts(reference: str, hypothesis: str) -> None:
    ops = word_diff(reference, hypothesis)
    assert [w for op in ops for w in op.reference] == reference.split()
    assert [w for op in ops for w in op.hypothesis] == hypothesis.split()
    for op in ops:
        assert (len(op.reference) > 0) == (op.kind != "insert")
        assert (len(op.hypothesis) > 0) == (op.kind != "delete")
        if op.kind in ("equal", "substitute"):
            assert len(op.reference) == len(op.hypothesis)
    errors = sum(max(len(op.reference), len(op.hypothesis)) for op in ops if op.kind != "equal")
    plain = [w.lower().rstrip(",") for w in reference.split()], [w.lower().rstrip(",") for w in hypothesis.split()]
    assert errors == edit_distance(*plain)


def test_diff_shows_words_as_written() -> None:
    ops = word_diff("Hello, big wide world", "hello world!")
    assert [(op.kind, op.reference, op.hypothesis) for op in ops] == [
        ("equal", ("Hello,",), ("hello",)),
        ("delete", ("big", "wide"), ()),
        ("equal", ("world",), ("world!",)),
    ]
    assert [(op.kind, op.hypothesis) for op in word_diff("a", "a b")] == [("equal", ("a",)), ("insert", ("b",))]
    assert [op.kind for op in word_diff("one two", "one three")] == ["equal", "substitute"]
    assert [op.kind for op in word_diff("Hello", "hello", key=str)] == ["substitute"]
    assert [op.kind for op in word_diff("-- don't", "– DON'T")] == ["substitute", "equal"]
    assert word_diff("", "") == []
