"""F8: a planted rise is reproduced; a flat rise, or one that random directions share, is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper.findings import Context, Finding
from hooked_whisper.findings.early_blocks import BEYOND, FALL, LAYER, RISE, WHOLE, EarlyBlocks, _contrast, halves
from hooked_whisper.findings.phones.evaluation import PhoneEvaluation
from tests.findings.phone_worlds import context_with_phones, layer_probes, planted
from tests.findings.worlds import small_context

EXPERIMENT = EarlyBlocks()


def judge(context: Context, evaluation: PhoneEvaluation) -> Finding:
    return EXPERIMENT.judge(evaluation, EXPERIMENT.setting(context))


def test_planted_rise_is_detected() -> None:
    finding = judge(small_context(), planted(True))
    assert finding.status == "reproduced", finding.status_reason
    values = {c.name: c.estimate.value or 0 for c in finding.claims}
    assert values[RISE] > 0.2 and values[BEYOND] > 5 and values[FALL] > 0.4
    figures = finding.draw()
    assert len(figures) == 3 and all("block 1" in figure.get_label() for figure in figures)


def test_a_layer_may_encode_phones_without_single_neurons_for_them() -> None:
    evaluation = planted(True)
    known = replace(evaluation, neurons=(evaluation.neurons[0],) * 2, probes=layer_probes(0.7, 0.7))
    finding = judge(small_context(), known)
    whole = finding.measurement(WHOLE)
    layer, single = (whole.at(features=f, bound="value") for f in ("layer as a whole", "best neuron of each phone"))
    assert (layer > 0.6).all() and (single < 0.4).all()
    rise = {c.name: c.estimate for c in finding.claims}[LAYER]
    assert rise.value == 0 and rise.low == rise.high == 0  # the same speakers in both blocks
    assert "0.7" in finding.notes[-2] and finding.tables[0].rows[0][0] == "layer as a whole"


def test_falling_layer_fails_only_its_criterion() -> None:
    finding = judge(small_context(), replace(planted(True), probes=layer_probes(0.8, 0.3)))
    assert [c.name for c in finding.claims if not c.passed] == [LAYER]


def test_rise_of_random_directions_does_not_count_as_a_rise_of_neurons() -> None:
    evaluation = planted(True)
    finding = judge(small_context(), replace(evaluation, random=(evaluation.neurons[0], evaluation.neurons[1])))
    beyond = {c.name: c for c in finding.claims}[BEYOND]
    assert not beyond.passed and finding.status != "reproduced"


def test_no_rise_is_not_reproduced() -> None:
    evaluation = planted(True)
    falling = replace(
        evaluation,
        neurons=evaluation.neurons[::-1],
        bands=evaluation.bands | {"neurons": evaluation.bands["neurons"][::-1]},
    )
    assert judge(small_context(), falling).status == "not reproduced"


def test_halves_leave_the_middle_block_out() -> None:
    assert halves(4) == ([0, 1], [2, 3]) and halves(5) == ([0, 1], [3, 4]) and halves(2) == ([0], [1])


def test_contrast_leaves_undefined_features_out() -> None:
    value, drawn = _contrast([np.array([1.0, np.nan, 3.0]), np.array([5.0, 5.0])], np.random.default_rng(0))
    assert value == 3 and abs(drawn.mean() - 3) < 0.1 and np.isfinite(drawn).all()


@pytest.mark.parametrize("count", [0, 24])
def test_it_runs_on_a_random_model(count: int) -> None:
    finding = EXPERIMENT.run(context_with_phones(count))
    assert finding.id == "F8" and finding.status == ("measured, no verdict" if count else "not testable")
    assert bool(finding.draw()) == (count > 0)
