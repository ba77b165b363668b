"""L3: statistics on counts, the baseline without a model, and which half selects and which is scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.analysis import alignment_heads as heads_analysis
from hooked_whisper.analysis.boundaries import boundaries
from hooked_whisper.findings import alignment_heads
from hooked_whisper.findings.alignment_heads import (
    CONTRAST,
    EVEN,
    F1,
    GAIN,
    OTHER,
    SELECTED,
    AlignmentHeads,
    f1_estimate,
    f1_gain,
)
from hooked_whisper.findings.words.lag import lag_estimate, median_lag, shifted_words, start_lags
from hooked_whisper.protocols import Alignment, Interval
from tests.findings.worlds import small_context


def test_proportional_spacing_follows_the_number_of_letters() -> None:
    words = (Interval(0.5, 0.6, "a"), Interval(0.6, 1.0, "cat"))
    even = alignment_heads.proportional(Alignment("u", "s", "a cat", 2.0, words))
    assert [(w.start, w.end, w.label) for w in even] == [(0.0, 0.5, "a"), (0.5, 2.0, "cat")]
    assert boundaries(even).tolist() == [0.5, 2.0]


def test_f1_estimate_and_its_paired_difference() -> None:
    rng = np.random.default_rng(0)
    good, bad = np.array([[4, 5, 5]] * 30), np.array([[1, 5, 5]] * 30)
    estimate = f1_estimate(good, rng)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.8, 0.8, 0.8))
    gain = f1_gain(good, bad, rng)
    assert gain.value == pytest.approx(0.6) and gain.low == pytest.approx(0.6)
    assert f1_gain(bad, bad, rng).value == 0


def test_lag_is_estimated_minus_true_start_and_can_be_removed() -> None:
    truth = (Interval(0.3, 0.5, "a"), Interval(0.6, 0.8, "b"), Interval(0.8, 1.0, "c"))
    late = (Interval(0.0, 0.7, "a"), *shifted_words(truth[1:], 0.1))
    lags = start_lags(late, truth)
    assert lags == pytest.approx([0.1, 0.1])  # the first word, which the recipe puts at 0, is left out
    assert len(start_lags(late[1:], truth)) == 0
    estimate = lag_estimate([lags, lags, np.zeros(0)], np.random.default_rng(0))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1))
    assert lag_estimate([], np.random.default_rng(0)).value is None and median_lag([]) == 0
    assert [w.start for w in shifted_words(late, -0.1)] == pytest.approx([0, 0.6, 0.8])


def knowing(model, encoder_out, tokens, n_positions, heads=None):
    """Head (1, 0) of every model attends to the words where :func:`worlds.utterance` puts them; if the text is that
    of the audio. The others are flat."""
    pairs = heads or [(b, h) for b in range(2) for h in range(2)]
    out = torch.zeros(len(pairs), len(tokens), n_positions)
    edges = 50 * np.linspace(0.1, 1.0, 5)
    if (1, 0) in pairs:
        for row in range(5):
            first, last = edges[row - 1] if row else 0, edges[row] if row < 5 else n_positions
            span = slice(0 if row == 0 else round(edges[row]), round(edges[row + 1]) if row < 4 else n_positions)
            assert first < last
            out[list(pairs).index((1, 0)), 3 + row, span] = 60.0
    return out


def test_informative_head_is_selected_on_one_half_and_scored_on_the_other(monkeypatch) -> None:
    monkeypatch.setattr(heads_analysis, "cross_scores", knowing)
    seen: list[list[str]] = []
    original = alignment_heads.choose_heads

    def spy(model, encoder_out, alignments, **more):
        seen.append([a.utterance for a in alignments])
        return original(model, encoder_out, alignments, **more)

    monkeypatch.setattr(alignment_heads, "choose_heads", spy)
    context = small_context(count=6)
    finding = AlignmentHeads().run(context)
    assert seen == [["u0", "u2", "u4"]]
    assert {e.utterance for e in finding.examples} == {"u1", "u3", "u5"}
    values = {c.name: c.estimate.value for c in finding.criteria}
    assert values[F1] == pytest.approx(1) and (values[GAIN] or 0) > 0 and (values[CONTRAST] or 0) > 0
    assert finding.status == "measured, no verdict" and "utterances scored" in finding.status_reason
    alone = finding.measurement("boundary F1 of each head alone").at(tolerance=0.1)
    assert alone[1, 0] == 1 and alone[0, 0] < 1
    assert "1.0" in finding.notes[0]
    curve = finding.measurement("boundary F1")
    assert curve.at(heads=SELECTED, tolerance=0.1, bound="value") == 1
    assert curve.at(heads=EVEN, tolerance=0.1, bound="value") < 1
    assert len(finding.draw()) == 3


def test_random_model_runs_end_to_end() -> None:
    finding = AlignmentHeads().run(small_context(count=4))
    assert finding.status == "measured, no verdict"
    assert {c.name for c in finding.controls} == {alignment_heads.UNTRAINED, OTHER, alignment_heads.RANDOM, EVEN}
    even = next(c for c in finding.controls if c.name == EVEN)
    assert even.values[GAIN].value == 0


def test_own_word_times_give_no_verdict() -> None:
    finding = AlignmentHeads().run(small_context(count=4, truth=False, reference="model"))
    assert finding.status == "measured, no verdict" and alignment_heads.SCORED in finding.status_reason
    assert finding.measurements and "agreement" in finding.notes[-1]


def test_without_speech_it_is_not_testable() -> None:
    finding = AlignmentHeads().run(small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason
