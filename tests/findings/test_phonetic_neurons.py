"""F5: planted phones are evaluation, blind features are not; random models run through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper.findings import Context, Finding, phonetic_neurons
from hooked_whisper.findings.phones.evaluation import PhoneEvaluation
from hooked_whisper.findings.phonetic_neurons import LARGEST, SHARE, PhoneticNeurons, pure
from tests.findings.phone_worlds import context_with_phones, planted
from tests.findings.worlds import small_context

EXPERIMENT = PhoneticNeurons()


def judge(context: Context, evaluation: PhoneEvaluation) -> Finding:
    return EXPERIMENT.judge(evaluation, EXPERIMENT.setting(context))


def test_planted_phones_are_named() -> None:
    finding = judge(small_context(), planted(True))
    assert finding.status == "reproduced", finding.status_reason
    assert finding.statistic is not None and finding.statistic.name == SHARE
    assert finding.statistic.estimate.value is not None and finding.statistic.estimate.value > 0.7
    assert finding.measurement("share by block").at(features="neurons", block=0, bound="value") < 0.15
    assert finding.tables[1].rows and all("/" in row[1] or row[1] for row in finding.tables[1].rows)
    figures = finding.draw()
    assert len(figures) == 3 and all("%" in f.get_label() or ":" in f.get_label() for f in figures)


def test_blind_features_are_not() -> None:
    finding = judge(small_context(), planted(False))
    assert finding.status == "not reproduced"
    assert finding.claims[0].passed is False and finding.claims[1].passed is True


def test_a_control_that_is_phonetic_too_decides() -> None:
    evaluation = planted(True)
    finding = judge(small_context(), replace(evaluation, random=(evaluation.neurons[1],) * 2))
    assert finding.status == "not reproduced" and "random directions" in finding.status_reason
    largest = {c.name: c for c in finding.claims}[LARGEST]
    assert not largest.passed


def test_purity_counts_living_features_only() -> None:
    evaluation = planted(True)
    site = evaluation.neurons[1]
    true, purity = pure(site, evaluation.judges)
    assert len(true) == len(purity) == site.alive(evaluation.judges).sum()
    few = np.zeros(len(evaluation.judges), dtype=bool)
    few[:5] = True
    assert len(pure(site, few)[0]) == 0  # five utterances cannot have twenty examples


@pytest.mark.parametrize("count", [0, 24])
def test_it_runs_on_a_random_model(count: int) -> None:
    finding = EXPERIMENT.run(context_with_phones(count))
    assert finding.id == "F5" and finding.status == ("measured, no verdict" if count else "not testable")
    assert bool(finding.draw()) == (count > 0)


def test_the_published_table_is_as_counted_by_its_authors() -> None:
    sounds = [row[1] for row in phonetic_neurons.PUBLISHED.rows]
    assert len(sounds) == 50 and sounds.count("N/A") == 10
    assert sum(sound in ("noise", "microphone turning on") for sound in sounds) == 3
