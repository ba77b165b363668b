"""F18: measurements of clips with a known gain; the experiment runs, draws and refuses."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.findings import listening
from hooked_whisper.findings.listening import Listening, Moment, find_moments, measure_clips
from tests.core.twins import listeners
from tests.findings.worlds import small_context


def test_moments_are_the_largest_of_their_neurons() -> None:
    context = small_context(count=3)
    name = listening.HOOK.format(1)
    _, cache = context.model.run_with_cache(context.mels(range(3)), names_filter=name, stop_early=True)
    moments = find_moments(context)
    assert len(moments) == 64 and len({m.unit for m in moments}) == 64
    for moment in moments[:10]:
        values = [cache[name][i, : context.n_positions[i], moment.unit] for i in range(3)]
        top = max(float(v.max()) for v in values)
        position = round(moment.seconds / context.seconds_per_position)
        assert float(values[moment.utterance][position]) == pytest.approx(top, rel=1e-4)
    assert not listeners(context.model)


@pytest.mark.parametrize("seconds", [0.0, 0.6, 1.2])
def test_measurements_see_the_gain(seconds: float) -> None:
    context = small_context(count=1)
    clips = measure_clips(context, [Moment(0, seconds, 0)])
    assert clips.samples[0] == 1000 and clips.inside[0] == pytest.approx(20, abs=1e-3)
    assert clips.outside[0] == pytest.approx(0, abs=1e-3) and clips.limited[0] <= 1
    half = measure_clips(context, [Moment(0, seconds, 0)], gain=5.0)
    assert half.inside[0] == pytest.approx(20 * np.log10(5), abs=1e-3)
    assert half.peak[0] < clips.peak[0]


def test_a_sudden_gain_on_a_low_tone_clicks() -> None:
    context = small_context(count=1)
    tone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(19_200) / 16_000 + 1.0).astype(np.float32)
    object.__setattr__(context.utterances[0], "samples", tone)
    clips = measure_clips(context, [Moment(0, 0.6, 0)])
    assert clips.click[0] < -60 and clips.click_without_fades[0] > clips.click[0] + 20


def test_silence_has_no_gain() -> None:
    context = small_context(count=1)
    object.__setattr__(context.utterances[0], "samples", np.zeros(16_000, np.float32))
    clips = measure_clips(context, [Moment(0, 0.5, 0)])
    assert np.isnan(clips.inside[0]) and clips.limited[0] == 0


def test_it_runs_and_draws() -> None:
    finding = Listening().run(small_context(count=3))
    assert [c.passed for c in finding.claims[:4]] == [True] * 4
    assert {c.name for c in finding.controls} == {"factor 1", "no fades"}
    assert not any(c.reproduces(finding.claims) for c in finding.controls)
    assert len(finding.draw()) == 2


def test_without_speech_it_is_not_testable() -> None:
    finding = Listening().run(small_context())
    assert finding.status == "not testable" and finding.draw() == []
