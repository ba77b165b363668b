"""F7: the entropy of planted phones falls with activation, that of blind features does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper.features.phones.polyphony import RangeSummary, ranges_of_examples
from hooked_whisper.findings import Context, Finding
from hooked_whisper.findings.phones.evaluation import PhoneEvaluation
from hooked_whisper.findings.polyphony import P_VALUE, SHARE, Polyphony, fall
from tests.findings.phone_worlds import context_with_phones, planted
from tests.findings.worlds import small_context

EXPERIMENT = Polyphony()


def judge(context: Context, evaluation: PhoneEvaluation) -> Finding:
    return EXPERIMENT.judge(evaluation, EXPERIMENT.setting(context))


def test_entropy_falls_for_planted_phones() -> None:
    """The tones of neighbors in the list are near, and so are their articulations: confusions are near too."""
    evaluation = planted(True)
    finding = judge(small_context(), replace(evaluation, neurons=(evaluation.neurons[1],) * 2))
    assert finding.status == "reproduced", finding.status_reason
    values = {c.name: c.estimate.value or 0 for c in finding.claims}
    assert values[SHARE] > 0.6 and values[P_VALUE] < 0.01
    falls = finding.measurement("effective number of phones by decile").at(features="neurons", bound="value")
    assert falls[-1] < falls[0]
    figures = finding.draw()
    assert len(figures) == 3 and all(figure.get_label() for figure in figures)
    assert finding.measurement("phones by decile").values.sum() > 0
    assert [len(table.rows) for table in finding.tables] == [4, 4]


def test_entropy_does_not_fall_for_blind_features() -> None:
    finding = judge(small_context(), planted(False))
    assert finding.status == "not reproduced" and not any(claim.passed for claim in finding.claims)


def test_control_that_also_falls_decides_the_status() -> None:
    evaluation = planted(True)
    both = (evaluation.neurons[1],) * 2
    finding = judge(small_context(), replace(evaluation, neurons=both, random=both))
    assert finding.status == "not reproduced" and "random directions" in finding.status_reason


def test_features_of_all_blocks_are_joined() -> None:
    ids = np.zeros((2, 3, 4), dtype=np.int64)
    ranges = ranges_of_examples(ids, ("a", "b"), np.array([0.5, 0.5]))
    both = RangeSummary.joined([ranges.without_counts()] * 3)
    assert both.label_counts.shape == (6, 2) and both.equal_entropies.shape == (6, 3) and both.majority.shape == (6,)
    np.testing.assert_array_equal(both.label_counts[2:4], ranges.counts.sum(1))


def test_features_without_a_trend_do_not_count() -> None:
    assert fall(np.array([-1.0, np.nan, -0.5, 0.3])).tolist() == [True, True, False]


@pytest.mark.parametrize("count", [0, 24])
def test_it_runs_on_a_random_model(count: int) -> None:
    finding = EXPERIMENT.run(context_with_phones(count))
    assert finding.id == "F7" and finding.status == ("measured, no verdict" if count else "not testable")
    assert bool(finding.draw()) == (count > 0)
