"""F14: counted where the words are still understood; runs on two languages; says what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper.findings import language_steering
from hooked_whisper.findings.context import Context
from hooked_whisper.findings.language_steering import Steered
from tests.core.twins import listeners
from tests.findings.worlds import small_context, utterance


def test_flips_count_only_while_the_words_are_there() -> None:
    words, plain = np.full(4, 5.0), np.array([1.0, 0, 0, 0])
    flipped = np.array([[False] * 4, [True, False, False, True], [True] * 4])
    one = Steered(flipped, np.array([[1.0, 0, 0, 0], [1.0, 1, 0, 0], [5.0, 5, 5, 5]]))
    assert one.usable(words, plain) == [0, 1]
    assert one.flips([0, 1]).tolist() == [1, 0, 0, 1] and one.flips([]).tolist() == [0] * 4


def test_it_runs_on_two_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_steering, "LEAST_CLIPS", 1)
    context = small_context()
    clips = []
    for k in range(6):
        one = utterance(f"u{k}", "the cat sat", seed=k)
        spoken = {"language": "de" if k % 2 else "en"}
        clips.append(replace(one, alignment=replace(one.alignment, extra=spoken)))
    context = Context(context.model, context.untrained, tuple(clips))
    finding = language_steering.run(context)
    assert finding.status == "not testable" and "WER" in finding.status_reason
    assert finding.measurement("clips flipped").values.shape == (2, 4)
    assert len(language_steering.draw(finding)) == 3 and not listeners(context.model)


def test_one_language_is_not_enough() -> None:
    finding = language_steering.run(small_context(count=3))
    assert finding.status == "not testable" and "two languages" in finding.status_reason
    assert language_steering.run(small_context()).status == "not testable"
