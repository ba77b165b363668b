"""Spoken minimal pairs of the packaged corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.findings.core.transcripts import Transcriber
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.synthetic import SyntheticCorpus


@pytest.fixture(scope="module")
def synthetic() -> SyntheticCorpus:
    return SyntheticCorpus.default()


@pytest.fixture(scope="module")
def pairs(synthetic: SyntheticCorpus):
    return synthetic.minimal_pairs(12, seed=1)


def test_clips_of_a_pair_differ_only_in_the_slot(pairs):
    assert len(pairs) == 12
    for pair in pairs:
        first, last = round(pair.span.start * 16000), round(pair.span.end * 16000)
        assert len(pair.clean) == len(pair.corrupt)
        np.testing.assert_array_equal(pair.clean[:first], pair.corrupt[:first])
        np.testing.assert_array_equal(pair.clean[last:], pair.corrupt[last:])
        assert np.abs(pair.clean - pair.corrupt)[first:last].max() > 0.01


def test_pair_has_words_phones_and_probabilities(synthetic: SyntheticCorpus, pairs):
    for pair in pairs:
        a, b = pair.clean_alignment, pair.corrupt_alignment
        assert [w.label for w in a.words] == pair.text_a.split() and [w.label for w in b.words] == pair.text_b.split()
        assert sum(x.label != y.label for x, y in zip(a.phones, b.phones, strict=True)) == 1
        assert all(abs(x.start - y.start) <= 0.01 for x, y in zip(a.phones, b.phones, strict=True))
        row = synthetic.transition_matrix[synthetic.states.index(pair.carrier.previous)]
        assert pair.log_prob_a == pytest.approx(np.log(row[synthetic.states.index(pair.a)]))
        assert pair.carrier.grammatical and np.isfinite(synthetic.grammar.log_prob(pair.text_a))
        assert np.isfinite(synthetic.grammar.log_prob(pair.text_b))
        assert pair.speaker in {"us-f4", "us-annie", "gb-paul"}


def test_pairs_depend_on_the_seed(synthetic: SyntheticCorpus, pairs):
    again, other = synthetic.minimal_pairs(12, seed=1), synthetic.minimal_pairs(12, seed=2)
    assert [(p.text_a, p.b, p.speaker) for p in again] == [(p.text_a, p.b, p.speaker) for p in pairs]
    assert [p.text_a for p in other] != [p.text_a for p in pairs]


def test_contrasts_and_voices_are_selected(synthetic: SyntheticCorpus):
    assert all({*p.contrast.split("/")} == {"b", "p"} for p in synthetic.minimal_pairs(4, "b/p"))
    assert all(p.place == "coda" and p.speaker == "us-m0" for p in synthetic.minimal_pairs(3, "coda", speakers="us-m0"))
    with pytest.raises(ValueError, match="did you mean 'us-annie'"):
        synthetic.minimal_pairs(1, speakers=["us-anni"])


def test_a_third_word_fits_the_slot(synthetic: SyntheticCorpus, pairs):
    pair = pairs[0]
    third = pair.with_word(synthetic.third_words(pair)[0])
    assert third.parameters["b"] not in (pair.a, pair.b)
    np.testing.assert_array_equal(third.clean, pair.clean)
    assert third.spans == (pair.span,) and not np.array_equal(third.corrupt, pair.corrupt)


def test_the_demo_model_hears_most_swaps(pairs):
    model = HookedWhisper.from_pretrained("demo")
    transcriber = Transcriber(model, "en", 20)
    heard = []
    with torch.no_grad():
        for pair in pairs:
            texts = transcriber(model.embed_audio(torch.cat(pair.corruption().mels(model))))
            heard.append(all(w in t.split() for w, t in zip((pair.a, pair.b), texts, strict=True)))
    assert np.mean(heard) >= 0.3  # 60 % of 60 pairs; 12 are few
