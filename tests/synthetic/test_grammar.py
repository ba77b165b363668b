"""The grammar: lexicon, matrix, held-out bigrams, files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.synthetic.corpus import CorpusConfig, plan
from hooked_whisper.synthetic.grammar import MAX_WORDS, MIN_WORDS, Grammar, build_grammar
from hooked_whisper.synthetic.lexicon import CLASS_OF, CONTENT_CLASSES, WORDS, token_ids
from hooked_whisper.synthetic.voices import speakers


def test_every_word_is_one_token_and_in_one_class():
    assert len(token_ids()) == len(WORDS) == len(set(WORDS)) == len(set(token_ids().values()))
    assert 200 <= len(WORDS) <= 260
    assert {"very", "rug", "duck", "tea", "traffic", "good"} <= set(WORDS)
    assert len(CONTENT_CLASSES) >= 8 and set(CONTENT_CLASSES) <= set(CLASS_OF.values())


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_sum_to_one_for_every_seed(seed: int):
    grammar = build_grammar(seed)
    for matrix in (grammar.full, grammar.train):
        assert np.allclose(matrix[:-1].sum(1), 1) and (matrix >= 0).all()
        assert (matrix[-1] == 0).all() and (matrix[:, 0] == 0).all()  # nothing after END, nothing leads to START
    lost = (grammar.full > 0) & (grammar.train == 0)
    assert lost.sum() == len(grammar.held_out) > 0.02 * (grammar.full > 0).sum()
    assert (grammar.train[:-1].max(1) > 0).all() and (grammar.train[:, 1:].max(0) > 0).all()


def test_row_entropies_differ_between_words(grammar: Grammar):
    bits = grammar.row_entropy[:-1]
    assert bits.min() < 1 and bits.max() > 5 and 2 < np.median(bits) < 4.5


def test_collocations_are_likely(grammar: Grammar):
    followers = {word: grammar.train[grammar.index[word]] for word in ("traffic", "ice", "very", "good")}
    assert {grammar.states[i] for i in np.argsort(followers["traffic"])[-5:]} >= {"lights", "jam", "police", "control"}
    assert grammar.states[int(followers["ice"].argmax())] == "cream"
    assert followers["very"][grammar.index["good"]] > 0.1
    assert followers["good"][grammar.index["morning"]] > 0.05


def test_sampled_bigrams_have_positive_probability(grammar: Grammar):
    rng = np.random.default_rng(1)
    for text in itertools.islice(grammar.sentences(rng), 500):
        assert MIN_WORDS <= len(text.split()) <= MAX_WORDS
        assert all(grammar.train[grammar.index[a], grammar.index[b]] > 0 for a, b in grammar.bigrams(text))
        assert not grammar.has_held_out(text) and np.isfinite(grammar.log_prob(text))


def test_frequencies_follow_the_matrix(grammar: Grammar):
    """Followers of a frequent word, but for sampling error and for sentences drawn again."""
    counts = np.zeros(len(grammar.states))
    for text in itertools.islice(grammar.sentences(np.random.default_rng(2)), 4000):
        for a, b in grammar.bigrams(text):
            if a == "a":
                counts[grammar.index[b]] += 1
    assert np.abs(counts / counts.sum() - grammar.train[grammar.index["a"]]).sum() < 0.35


def test_training_plan_excludes_test_sentences_and_bigrams(grammar: Grammar):
    shards = plan(CorpusConfig(train=3000), grammar)
    train = {job.text for name, jobs in shards.items() if name.startswith("train") for job in jobs}
    tests = [job.text for name, jobs in shards.items() if not name.startswith("train") for job in jobs]
    assert not train & set(tests) and len(tests) == len(set(tests)) == 800
    assert not any(grammar.has_held_out(text) for text in train)
    assert all(grammar.has_held_out(job.text) for job in shards["bigrams-000"])
    trained = {job.speaker for name, jobs in shards.items() if name.startswith("train") for job in jobs}
    unknown = [job.speaker for job in shards["speakers-000"]]
    held_out = [speaker.id for speaker in speakers("held-out")]
    assert not trained & set(held_out) and [unknown.count(index) for index in held_out] == [75] * 4
    assert len(trained) >= 10


def test_grammar_survives_saving_and_loading(grammar: Grammar, tmp_path: Path):
    grammar.save(tmp_path)
    again = Grammar.load(tmp_path)
    assert np.array_equal(again.train, grammar.train) and np.array_equal(again.full, grammar.full)
    assert (again.words, again.class_of, again.held_out) == (grammar.words, grammar.class_of, grammar.held_out)
