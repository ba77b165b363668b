"""W2: conflicts, padding and paths; the experiment runs and draws."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.findings.audio_against_context import (
    PATHS,
    AudioAgainstContext,
    Conflict,
    _inputs,
    find_conflicts,
    run_conflicts,
)
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.words.context_conflict import pooled
from tests.core.twins import listeners
from tests.findings.worlds import small_context


@pytest.fixture
def context() -> Context:
    context = small_context(count=6)
    vars(context)["transcripts"] = list(context.references)  # as if the model heard every word
    return context


def test_a_conflict_contradicts_the_grammar(context: Context) -> None:
    truth = context.truth
    number = {w: i for i, w in enumerate(truth.words)}
    conflicts = find_conflicts(context, np.random.default_rng(0))
    assert conflicts
    for conflict in conflicts:
        words = context.references[conflict.clip].split()
        assert (words[conflict.index - 1], words[conflict.index]) == (conflict.before, conflict.said)
        row = truth.row[number[conflict.replaced]]
        assert (
            row[number[conflict.called]] >= 0.2
            and row[number[conflict.said]] == 0
            and row[number[conflict.unrelated]] == 0
        )
        assert conflict.replaced != conflict.before and len({conflict.said, conflict.called, conflict.unrelated}) == 3


def test_clips_with_transcription_errors_are_left_out(context: Context) -> None:
    context.transcripts[:] = ["the red dog sat"] * 6
    assert find_conflicts(context, np.random.default_rng(0)) == []
    finding = AudioAgainstContext().run(context)
    assert finding.status == "not testable" and "without an error" in finding.status_reason


def test_padding_on_the_right_does_not_change_results(context: Context) -> None:
    items = [Conflict(0, 1, "the", "very", "red", "dog", "sea"), Conflict(1, 3, "cat", "tea", "sat", "dog", "sea")]
    together = run_conflicts(context, context.model, items, context.encoded)
    for k, conflict in enumerate(items):
        alone = run_conflicts(context, context.model, [conflict], context.encoded)
        np.testing.assert_allclose(alone.conflict[0], together.conflict[k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone.audio[0], together.audio[k], rtol=1e-2, atol=1e-3)
    tokens, last = _inputs(context, context.model, items, replaced=True)
    assert tokens.shape[1] == last.max() + 1 and last.tolist() == [4, 6]
    assert not listeners(context.model)


def test_patching_the_embedding_restores_the_whole_gap_of_the_word(context: Context) -> None:
    """The runs differ in one token, the last: with its embedding taken over, the run is the other conflict."""
    runs = run_conflicts(context, context.model, find_conflicts(context, np.random.default_rng(0)), context.encoded)
    np.testing.assert_allclose(runs.word[:, list(PATHS).index("embedding")], 1, atol=1e-2)
    np.testing.assert_allclose(runs.audio[:, list(PATHS).index("embedding")], 0, atol=1e-2)


def test_shares_are_weighted_by_the_gap() -> None:
    shares = np.array([[1.0, 0.0], [-100.0, 0.5]])
    first, second = pooled(shares, np.array([10.0, 0.01]), np.random.default_rng(0))
    assert first.value == pytest.approx(9 / 10.01) and second.value == pytest.approx(0.005 / 10.01)


def test_it_runs_and_draws(context: Context) -> None:
    finding = AudioAgainstContext().run(context)
    assert finding.status == "measured, no verdict" and "conflicts" in finding.status_reason
    assert {c.name for c in finding.controls} == {"audio of another clip", "unrelated word", "untrained model"}
    assert len(finding.draw()) == 3
