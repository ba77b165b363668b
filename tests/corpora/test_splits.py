"""Splits: no speaker on both sides, every recording on one, the same for any order of the corpus."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import Recording, fingerprint, folds_by_speaker, split_by_speaker
from hooked_whisper.errors import AudioError

CORPORA = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=40).map(
    lambda speakers: [Recording(str(k), None, speaker=s) for k, s in enumerate(speakers)]
)


def groups(corpus: list[Recording], places: np.ndarray) -> set[str]:
    return {corpus[k].speaker or f"unknown {corpus[k].id}" for k in places}


@given(CORPORA, st.floats(0.05, 0.95), st.integers(0, 100))
def test_splits_share_no_speaker(corpus: list[Recording], share: float, seed: int) -> None:
    n = len(groups(corpus, np.arange(len(corpus))))
    if n < 2:
        with pytest.raises(AudioError, match="speakers"):
            split_by_speaker(corpus, share, seed)
        return
    train, test = split_by_speaker(corpus, share, seed)
    assert sorted([*train, *test]) == list(range(len(corpus))) and len(train) and len(test)
    assert groups(corpus, train).isdisjoint(groups(corpus, test))
    again = split_by_speaker(corpus[::-1], share, seed)
    assert {corpus[k].id for k in train} == {corpus[::-1][k].id for k in again.train}


@given(CORPORA, st.integers(2, 5))
def test_each_item_is_tested_in_one_fold(corpus: list[Recording], n: int) -> None:
    if len(groups(corpus, np.arange(len(corpus)))) < n:
        with pytest.raises(AudioError, match="speakers"):
            folds_by_speaker(corpus, n)
        return
    folds = folds_by_speaker(corpus, n)
    assert len(folds) == n and all(len(test) for _, test in folds)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(corpus)))
    for train, test in folds:
        assert groups(corpus, train).isdisjoint(groups(corpus, test)) and len(train) + len(test) == len(corpus)


def test_split_share_with_small_speakers() -> None:
    corpus = [Recording(str(k), None, speaker=str(k // 3)) for k in range(300)]
    train, _ = split_by_speaker(corpus, 0.8)
    assert len(train) == 240
    assert not np.array_equal(train, split_by_speaker(corpus, 0.8, seed=1).train)
    assert [len(test) for _, test in folds_by_speaker(corpus, 4)] == [75] * 4


def test_invalid_requests_are_refused() -> None:
    corpus = [Recording(str(k), None) for k in range(4)]
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(AudioError, match="between 0 and 1"):
            split_by_speaker(corpus, share)
    with pytest.raises(AudioError, match="2 folds"):
        folds_by_speaker(corpus, 1)


def test_the_fingerprint_knows_names_order_speakers_and_texts() -> None:
    corpus = [Recording("a", None), Recording("b", None)]
    others = [corpus[:1], corpus[::-1], [Recording("a", None, speaker="s"), corpus[1]],
              [Recording("a", None, text="t"), corpus[1]], [Recording("a", None, path="t"), corpus[1]]]  # fmt: skip
    assert len({fingerprint(variant) for variant in [corpus, *others]}) == 6
    assert fingerprint(corpus) == fingerprint([Recording("a", 1), Recording("b", 2)])
