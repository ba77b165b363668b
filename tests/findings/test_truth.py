"""The truth about a synthetic corpus, compared with counts in sampled sentences."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.findings.core.synthetic_truth import length_limited
from tests.findings.worlds import WORDS, matrix, small_model, small_truth


def test_length_limited_matches_sampled_sentences() -> None:
    b, rng = matrix(3), np.random.default_rng(0)
    follows, visits = length_limited(b, 2, 4)
    n = len(WORDS)
    pairs, seen, accepted = np.zeros((n, n + 1)), np.zeros(n), 0
    for _ in range(15_000):
        path, state = [], 0
        while len(path) <= 4:
            state = int(rng.choice(n + 2, p=b[state]))
            if state == n + 1:
                break
            path.append(state - 1)
        if 2 <= len(path) <= 4:
            accepted += 1
            np.add.at(seen, path, 1)
            pairs[path[0], path[1]] += 1
    assert visits == pytest.approx(seen / accepted, abs=0.03)
    common = pairs.sum(1) > 600
    assert common.any()
    counted = pairs[common] / pairs[common].sum(1, keepdims=True)
    assert np.abs(follows[common] - counted).max() < 0.08
    assert (follows[:, -1] == 0).all()  # no sentence of one word


def test_without_limits_rows_are_the_matrix() -> None:
    b = matrix(1)
    follows, _ = length_limited(b, 1, 400)
    assert follows == pytest.approx(b[1:-1, 1:], abs=1e-6)


def test_phone_and_context_similarity() -> None:
    truth = small_truth(small_model())
    index = {w: k for k, w in enumerate(WORDS)}
    assert truth.phone_distance[index["rug"], index["mug"]] == 1
    assert truth.phone_similarity[index["rug"], index["mug"]] == pytest.approx(2 / 3)
    assert truth.sounds_alike[index["hat"], index["cat"]] and truth.sounds_alike[index["ran"], index["rug"]] == (
        truth.phone_distance[index["ran"], index["rug"]] <= 1
    )
    assert not truth.sounds_alike.diagonal().any()
    assert truth.context_similarity.diagonal() == pytest.approx(np.ones(len(WORDS)), abs=1e-6)
    assert truth.context_similarity == pytest.approx(truth.context_similarity.T)
    assert truth.unigram.sum() == pytest.approx(1)
