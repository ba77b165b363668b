"""F9 on the synthetic corpus: logits with a known answer, and models whose decoder knows its grammar."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.findings import bigrams
from hooked_whisper.findings.bigrams import RANKS, RATIO, TOP, Bigrams, log_softmax, with_end, words_only
from tests.findings.worlds import WORDS, small_context, small_model, small_truth


@pytest.fixture(autouse=True)
def few_draws(monkeypatch) -> None:
    monkeypatch.setattr(bigrams, "DRAWS", 40)
    monkeypatch.setattr(bigrams, "SHUFFLES", 5)


@pytest.fixture(scope="module")
def truth():
    return small_truth(small_model())


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-12))


def test_log_probabilities_of_the_grammar_have_zero_kl(truth) -> None:
    statistics = words_only(truth, _log(truth.row) + 3.7).statistics(np.random.default_rng(0))
    assert statistics[RATIO].value == pytest.approx(0, abs=1e-6)
    assert statistics[TOP].value == 1 and statistics[RANKS].value == pytest.approx(1)
    assert statistics[RATIO].low <= statistics[RATIO].value <= statistics[RATIO].high


def test_word_frequencies_have_a_kl_ratio_of_one(truth) -> None:
    statistics = words_only(truth, np.broadcast_to(_log(truth.unigram), truth.row.shape)).statistics()
    assert statistics[RATIO].value == pytest.approx(1)


def test_logits_of_other_words_are_worse_than_frequencies(truth) -> None:
    statistics = words_only(truth, _log(np.roll(truth.row, 1, axis=0))).statistics()
    assert statistics[RATIO].value > 1


def test_end_of_sentence_as_in_the_corpus_and_as_in_the_grammar_row(truth) -> None:
    corpus = with_end(truth, _log(truth.follows), True).statistics()
    assert corpus[RATIO].value == pytest.approx(0, abs=1e-6)
    assert with_end(truth, _log(truth.row), False).statistics()[RATIO].value == pytest.approx(0, abs=1e-6)
    assert with_end(truth, _log(truth.row), True).statistics()[RATIO].value > 0.05


def test_log_softmax() -> None:
    x = np.array([[1e3, 1e3 + 1.0, -1e3]])
    assert np.exp(log_softmax(x)).sum() == pytest.approx(1)


def _context_with_logits(table: np.ndarray):
    """Return a context whose models predict the row of logits of each word, for any audio."""
    context = small_context()
    truth = context.truth
    row_of = {int(t): k for k, t in enumerate(truth.tokens)}

    def answer(x: torch.Tensor, hook) -> torch.Tensor:
        out = torch.full_like(x, -30.0)
        for row, token in enumerate(last["tokens"]):
            out[row, -1, torch.from_numpy(truth.outcome_ids)] = torch.from_numpy(table[row_of[int(token)]]).to(x)
        return out

    last: dict[str, torch.Tensor] = {}
    context.model.add_hook("decoder.hook_tokens", lambda x: last.update(tokens=x[:, -1].clone()))
    context.model.add_hook("unembed.hook_out", answer)
    return context


def test_decoder_that_knows_the_grammar_reproduces_the_finding() -> None:
    table = _log(small_truth(small_model()).row)
    finding = Bigrams().run(_context_with_logits(table))
    assert finding.status == "reproduced", finding.status_reason
    assert finding.statistic.name == RATIO and finding.statistic.estimate.value < 1e-3
    values = {c.name: c.values[RATIO].value for c in finding.controls}
    assert values["word frequencies"] == pytest.approx(1)
    assert values["shuffled rows"] > 1 and values["untrained model"] > 0.8
    ids = finding.parameters["prefix_ids"]
    assert finding.parameters["prefixes"]["published"] == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
    assert ids["published"] == [50258, 50259, 50359] and ids["with <|notimestamps|>"] == [50258, 50259, 50359, 50363]
    assert any(t.title.startswith("After '␣very'") for t in finding.tables)
    assert finding.tables[0].rows[0][0].startswith("␣")
    assert len(finding.draw()) == 3


def test_decoder_that_knows_only_frequencies_does_not_reproduce_it() -> None:
    truth = small_truth(small_model())
    finding = Bigrams().run(_context_with_logits(np.tile(_log(truth.unigram), (len(WORDS), 1))))
    assert finding.status == "not reproduced"


def test_shuffled_rows_do_not_meet_the_criteria() -> None:
    truth = small_truth(small_model())
    finding = Bigrams().run(_context_with_logits(_log(np.roll(truth.row, 5, axis=0))))
    assert finding.status == "not reproduced"


def test_all_inputs_without_speech_are_measured() -> None:
    finding = Bigrams().run(small_context(count=2))
    table = finding.measurement("statistics by input and prefix")
    assert table.axis("input").entries == ("zero audio", "mel floor", "white noise", "mean encoding")
    assert finding.measurement("KL by prompt").axis("word").entries == WORDS
    assert finding.status == "not reproduced"
