"""F7: planted phones get surer with activation, blind features do not."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.features.polyphony import ranges_of_examples
from hooked_whisper.findings.polyphony import P_VALUE, SHARE, draw, fall, judge, run, together
from tests.findings.phone_worlds import context_with_phones, planted
from tests.findings.worlds import small_context


def test_planted_phones_get_surer() -> None:
    finding = judge(small_context(), planted(True))
    values = {c.name: c.estimate.value for c in finding.claims}
    blind = judge(small_context(), planted(False))
    other = {c.name: c.estimate.value for c in blind.claims}
    assert (values[SHARE] or 0) > (other[SHARE] or 0) + 0.2 and P_VALUE in values
    assert blind.status == "not reproduced"
    falls = finding.measurement("effective number of phones by decile").at(features="neurons", bound="value")
    assert falls[-1] < falls[0]
    figures = draw(finding)
    assert len(figures) == 3 and all(figure.get_label() for figure in figures)
    assert finding.measurement("phones by decile").values.sum() > 0
    assert [len(table.rows) for table in finding.tables] == [4, 4]


def test_features_of_blocks_together() -> None:
    ids = np.zeros((2, 3, 4), dtype=np.int64)
    one = ranges_of_examples(ids, ("a", "b"), np.array([0.5, 0.5]))
    both = together([one, one, one])
    assert both.counts.shape == (6, 3, 2) and both.edges.shape == (6, 4)
    np.testing.assert_array_equal(both.counts[2:4], one.counts)


def test_only_features_with_a_trend_count() -> None:
    assert fall(np.array([-1.0, np.nan, -0.5, 0.3])).tolist() == [True, True, False]


@pytest.mark.parametrize("count", [0, 24])
def test_runs_on_a_random_model(count: int) -> None:
    finding = run(context_with_phones(count))
    assert finding.id == "F7" and finding.status == "not testable"
    assert bool(draw(finding)) == (count > 0)
