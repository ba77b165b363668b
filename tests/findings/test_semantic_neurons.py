"""F11: thresholds are optimal, shuffled classes keep their sizes, planted neurons are found, the experiment runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.semantic_neurons import (
    COUNT,
    SemanticNeurons,
    WordActivations,
    evaluate,
    membership,
    read_words,
    shuffle_classes,
    unseen_f1,
    usable_classes,
)
from hooked_whisper.findings.words.class_scores import best_thresholds, f1_of
from tests.core.twins import listeners
from tests.findings.worlds import WORDS, small_context, utterance

CLASS_OF = {w: ("thing", "animal", "drink", "verb")[k % 4] for k, w in enumerate(WORDS)}


def context_of(count: int) -> Context:
    rng = np.random.default_rng(0)
    context = small_context(count=1)
    clips = tuple(utterance(f"u{k}", " ".join(rng.permutation(WORDS)[:6]), seed=k) for k in range(count))
    truth = replace(context.truth, class_of=CLASS_OF)
    return replace(context, utterances=clips, truth=truth)


@given(st.integers(0, 10_000))
def test_best_thresholds_match_an_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, size=(12, 3)).astype(float)  # with ties
    member = rng.random((12, 2)) < 0.4
    scores, thresholds = best_thresholds(values, member)
    for n in range(3):
        for c in range(2):
            tried = {
                t: 2 * (member[:, c] & (values[:, n] >= t)).sum() / ((values[:, n] >= t).sum() + member[:, c].sum())
                for t in np.unique(values[:, n])
            }
            assert scores[n, c] == pytest.approx(max(tried.values()), abs=1e-6)
            assert tried[thresholds[n, c]] == pytest.approx(scores[n, c], abs=1e-6)


def planted() -> WordActivations:
    rng = np.random.default_rng(1)
    word = rng.choice(WORDS, 400)
    values = rng.random((400, 5))
    values[:, 2] += 2 * np.array([CLASS_OF[w] == "drink" for w in word])
    return WordActivations(values, word, np.repeat(np.arange(80), 5))


def test_only_the_planted_neuron_is_detected() -> None:
    words = planted()
    train = words.utterance % 2 == 0
    classes = usable_classes(CLASS_OF, words, train)
    assert classes == ["animal", "drink", "thing", "verb"]
    member = membership(words, CLASS_OF, classes)
    best = evaluate(words.values, member, train)
    assert best.f1[2] > 0.95 and classes[best.label[2]] == "drink" and (np.delete(best.f1, 2) < 0.7).all()
    assert unseen_f1(words, best, member, np.random.default_rng(0))[2] > 0.95
    other = shuffle_classes(CLASS_OF, np.random.default_rng(3))
    assert sorted(other.values()) == sorted(CLASS_OF.values()) and set(other) == set(CLASS_OF)
    shuffled = evaluate(words.values, membership(words, other, classes), train)
    assert (shuffled.f1 < 0.7).all()


def test_f1_is_zero_without_hits() -> None:
    never = np.zeros((4, 2), dtype=bool)
    assert f1_of(never, never).tolist() == [0, 0]


def test_classes_with_few_words_are_left_out() -> None:
    words = WordActivations(np.zeros((40, 1)), np.array(["rug", "mug", "jug", "hat"] * 10), np.arange(40) // 4)
    train = words.utterance % 2 == 0
    assert usable_classes({"rug": "a", "mug": "a", "jug": "b", "hat": "a"}, words, train) == ["a"]


def test_batched_activations_match_single_utterances() -> None:
    context = context_of(3)
    clips = (context.utterances[0], utterance("u1", "red dog", seed=1), context.utterances[2])
    context = replace(context, utterances=clips)
    together = read_words(context, context.model, [0, 1, 2], context.encoded)
    alone = read_words(context, context.model, [1], context.encoded[[1]])
    assert alone.word.tolist() == ["red", "dog"]
    np.testing.assert_allclose(together.values[together.utterance == 1], alone.values, atol=1e-5)
    assert not listeners(context.model)


def test_it_runs_and_draws() -> None:
    finding = SemanticNeurons().run(context_of(24))
    assert finding.status == "measured, no verdict" and "gate" in finding.status_reason  # 24 clips are not 40
    assert {c.name for c in finding.controls} == {"shuffled classes", "untrained model"}
    assert all(COUNT in c.values for c in finding.controls)
    assert len(finding.draw()) == 2 and len(finding.tables[0].rows) == 12


def test_corpus_without_classes_is_not_testable() -> None:
    finding = SemanticNeurons().run(small_context(count=2))
    assert finding.status == "not testable" and "classes" in finding.status_reason
    assert finding.draw() == []
