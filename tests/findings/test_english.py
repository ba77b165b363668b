"""The packaged lists of English words and bigrams: complete, sorted, and equal to the builder's output."""

from __future__ import annotations

import lzma
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.core.statistics import edit_distance
from hooked_whisper.findings.english import (
    build,
    differ_only_at_the_end,
    edit_distances,
    load_english,
    one_syllable_rime,
    parse,
    spelled_rime,
)
from hooked_whisper.findings.english.build import ListSource, in_millions, is_lower_case_token, whisper_vocabularies
from tests.findings.worlds import small_model

UNIGRAMS = "the 900\nvery 500\ngood 400\nlondon 350\nlug 300\nbike's 200\nzyzzyva 100\nnews 90\n"
BIGRAMS = "very good 893885632\ngood news 243152000\ngood the 6400000\nthe london 9000000\nnews very 12345678\n"
PHONES = """the DH AH
the(2) DH IY
very V EH R IY
good G UH D
london L AH N D AH N
lug L AH G
zyzzyva Z IH
news N UW Z
"""


def test_the_builder_keeps_lower_case_single_tokens_with_their_bigrams() -> None:
    words, bigrams = build.build(UNIGRAMS, BIGRAMS, PHONES, whisper_vocabularies())
    assert words == "good\t400\tG UH D\nnews\t90\tN UW Z\nthe\t900\tDH AH\nvery\t500\tV EH R IY\n"
    assert bigrams == "good\tnews 240 the 6.4\nnews\tvery 12\nvery\tgood 890\n"
    english = parse(words, bigrams)
    assert english.bigrams[english.index["very"], english.index["good"]] == 890
    assert english.n_followers.tolist() == [2, 1, 0, 1] and english.n_predecessors.tolist() == [1, 1, 1, 1]
    fewer, _ = build.build(UNIGRAMS, BIGRAMS, PHONES, whisper_vocabularies(), n_words=2)
    assert [line.split("\t")[0] for line in fewer.splitlines()] == ["the", "very"]


def test_the_packaged_files_have_the_form_that_the_builder_writes() -> None:
    folder = files("hooked_whisper.findings.english")
    words, bigrams = (
        lzma.decompress((folder / name).read_bytes()).decode() for name in ("words.tsv.xz", "bigrams.tsv.xz")
    )
    english = load_english()
    rows = [
        f"{w}\t{c:.0f}\t{' '.join(p)}\n" for w, c, p in zip(english.words, english.counts, english.phones, strict=True)
    ]
    assert "".join(rows) == words
    unigrams = "\n".join(f"{w} {c:.0f}" for w, c in zip(english.words, english.counts, strict=True))
    phones = "\n".join(f"{w} {' '.join(p)}" for w, p in zip(english.words, english.phones, strict=True))
    pairs = [
        f"{first} {follower} {round(float(count) * 1e6)}"
        for first, listed in (line.split("\t") for line in bigrams.splitlines())
        for follower, count in zip(listed.split(" ")[::2], listed.split(" ")[1::2], strict=True)
    ]
    assert build.build(unigrams, "\n".join(pairs), phones, whisper_vocabularies()) == (words, bigrams)


def test_the_packaged_words_are_single_tokens_of_both_vocabularies() -> None:
    english = load_english()
    assert len(english.words) == 6000 and english.bigrams.nnz > 150_000
    assert len({phone for phones in english.phones for phone in phones}) == 39
    for vocabulary in whisper_vocabularies():
        assert all(is_lower_case_token(word, vocabulary) for word in english.words)
    model = small_model()
    ids = english.token_ids(model)
    assert model.to_str_tokens(ids[:3].tolist()) == [f" {word}" for word in english.words[:3]]


def test_words_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(HookedWhisperError, match="zyzzyva"):
        parse("zyzzyva\t1\tZ IH\n", "").token_ids(small_model())


@pytest.mark.parametrize(
    ("words", "bigrams", "named"),
    [
        ("b\t1\tB\na\t1\tAH\n", "", "'a'"),
        ("a\t1\tAH\na\t1\tAH\n", "", "'a'"),
        ("a\t1\tAH\n", "a\tb 7\n", "'b'"),
        ("a\t1\tAH\nb\t1\tB\n", "a\tb 7 a 8\n", "'a'"),
    ],
)
def test_inconsistent_lists_are_refused(words: str, bigrams: str, named: str) -> None:
    with pytest.raises(HookedWhisperError, match=named):
        parse(words, bigrams)


def test_a_source_of_another_version_is_refused(tmp_path) -> None:
    (tmp_path / "list.txt").write_text("\ufeffthe 5\n", encoding="utf-8")
    with pytest.raises(HookedWhisperError, match="install symspellpy"):
        ListSource("symspellpy==6.10.1", "list.txt", "0" * 64).read(tmp_path)
    digest = build.hashlib.sha256((tmp_path / "list.txt").read_bytes()).hexdigest()
    assert ListSource("p==1", "list.txt", digest).read(tmp_path) == "the 5\n"


@given(st.integers(1, 10**12))
def test_counts_keep_two_significant_digits(count: int) -> None:
    assert float(in_millions(count)) * 1e6 == pytest.approx(count, rel=0.06, abs=0.6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), min_size=1, max_size=12))
def test_edit_distances_match_the_pairwise_definition(sequences: list[list[str]]) -> None:
    distances = edit_distances(sequences)
    assert distances.tolist() == [[edit_distance(tuple(a), tuple(b)) for b in sequences] for a in sequences]


def test_rhymes_and_last_phones() -> None:
    assert one_syllable_rime(("T", "IY")) == ("IY",) and one_syllable_rime(("R", "AH", "G")) == ("AH", "G")
    assert one_syllable_rime(("R", "AH", "N", "IH", "NG")) is None and one_syllable_rime(("M",)) is None
    assert spelled_rime("tea") == "ea" and spelled_rime("hmm") == "hmm"
    assert differ_only_at_the_end("walk", "walks") and differ_only_at_the_end("walks", "walkd")
    assert not differ_only_at_the_end("cat", "hat")


def test_similarity_in_use_is_high_for_words_with_the_same_neighbors() -> None:
    english = load_english()
    rows = np.sort([english.index[word] for word in ("seven", "eight", "red", "blue", "walk", "run")])
    use = english.context_similarity(rows)
    assert np.allclose(np.diag(use), 1) and np.allclose(use, use.T) and use.min() >= 0
    np.fill_diagonal(use, -1)
    nearest = {english.words[rows[i]]: english.words[rows[j]] for i, j in enumerate(use.argmax(axis=1))}
    assert nearest == {"seven": "eight", "eight": "seven", "red": "blue", "blue": "red", "walk": "run", "run": "walk"}
