"""F1: statistics on maps made by hand, the clips, and the wiring on a small model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.findings import REGISTRY, relevance, run_finding
from hooked_whisper.findings.relevance_measures import (
    clip_statistics,
    cut_clip,
    noisy_clip,
    shuffled_weights,
    sum_sensitivity,
    whole_clip,
)
from tests.core.twins import listeners
from tests.findings.worlds import small_context, small_model

N = 400
ROWS = np.arange(N)


def stats(values: np.ndarray, n_clip: int = 300, rows: np.ndarray = ROWS):
    return clip_statistics(values[rows], rows, slice(20, 280), n_clip)


def test_a_diagonal_is_local_and_an_even_map_is_not() -> None:
    diagonal = stats(np.eye(N))
    assert diagonal.band == pytest.approx(N / 51) and diagonal.within == pytest.approx(1) and diagonal.distance == 0
    assert diagonal.profile[len(diagonal.profile) // 2] == 1 and diagonal.profile.sum() == pytest.approx(1)
    even = stats(np.ones((N, N)))
    assert even.band == pytest.approx(1, abs=0.02) and even.within == pytest.approx(0, abs=1e-9)


def test_a_map_spread_over_a_short_clip_passes_the_band_but_not_the_second_criterion() -> None:
    spread = np.zeros((N, N))
    spread[:, :60] = 1
    found = clip_statistics(spread, ROWS, slice(10, 50), 60)
    assert found.band > 4
    assert found.within == pytest.approx(0, abs=1e-9)


def test_the_sink_is_where_padding_rows_look() -> None:
    values = np.zeros((N, N))
    values[:, 295] = 1
    found = stats(values)
    assert found.sink == 1 and found.peak == 295
    values[:, 100] = 2
    assert stats(values).sink == 0 and stats(values).peak == 100
    assert np.isnan(clip_statistics(values, ROWS, slice(0, N), N).sink)


def test_some_rows_and_empty_rows() -> None:
    rows = np.concatenate([np.arange(300), np.arange(300, N, 10)])
    assert stats(np.eye(N), rows=rows).band == pytest.approx(N / 51)
    nothing = stats(np.zeros((N, N)))
    assert np.isnan([nothing.band, nothing.within, nothing.distance, nothing.sink]).all()


def test_clips_are_cut_and_continued_where_they_should() -> None:
    context = small_context(count=1)  # "the red cat sat" from 0.1 to 1.0 s; the window is 1.2 s
    whole, cut = whole_clip(context, 0), cut_clip(context, 0, 0.7)
    assert whole.text == "the red cat sat" and (whole.speech.start, whole.speech.stop, whole.n_clip) == (5, 50, 60)
    assert cut is not None and cut.text == "the red" and cut.speech.stop == cut.n_clip == 37
    assert len(cut.audio) == pytest.approx(0.73 * 16_000, abs=1)
    assert cut_clip(context, 0, 0.1) is None  # no word is over by then
    assert noisy_clip(context, 0) is None  # it would not fit into this window


def test_noise_continues_the_signal_behind_the_speech() -> None:
    context = small_context(count=1)
    big = type(context)(small_model(0, n_ctx=400), context.untrained, context.utterances)
    clip = noisy_clip(big, 0)
    assert clip is not None and clip.speech.stop == 50 and clip.n_clip == 150
    tail = clip.audio[16_000:]
    assert 0 < np.abs(tail).max() < 0.02 and np.array_equal(tail, noisy_clip(big, 0).audio[16_000:])


def test_shuffled_weights_keep_every_entry_and_leave_the_model_alone() -> None:
    model = small_model(0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    mixed = shuffled_weights(model, 3)
    for (name, a), (_, b) in zip(model.named_parameters(), mixed.named_parameters(), strict=True):
        assert torch.equal(a, before[name])
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
    assert not torch.equal(model.encoder.blocks[0].attn.query.weight, mixed.encoder.blocks[0].attn.query.weight)
    assert torch.equal(model.decoder.blocks[0].attn.query.weight, mixed.decoder.blocks[0].attn.query.weight)


def test_the_sum_of_outputs_has_no_slope_unless_gains_differ() -> None:
    model, resid = small_model(0), torch.randn(1, 60, 32)
    assert sum_sensitivity(model, resid) < 1e-5
    model.encoder.ln_post.weight.data += 0.3 * torch.randn(32)
    assert 0.05 < sum_sensitivity(model, resid) < 1


def test_it_runs_draws_and_leaves_nothing_behind() -> None:
    context = small_context(count=3)
    finding = run_finding(REGISTRY["F1"], context)
    assert finding.status == "not testable" and "clips" in finding.status_reason  # three of twenty
    assert [c.name for c in finding.controls] == ["shuffled weights", "untrained model", "spread over the clip"]
    assert relevance.SINK not in [c.name for c in finding.claims]
    looks = finding.measurement("where padding looks")
    assert looks.axis("condition").entries[-1] == "noise behind"
    assert np.isfinite(finding.measurement("slope of the published scalar").values).all()
    assert finding.measurement("slope of the published scalar").values.max() < 1e-4  # all gains are 1
    words = finding.measurement("words whose most relevant audio is their own")
    assert words.values.shape == (12, 2) and 0 < words.at(what="chance").min() <= words.at(what="chance").max() <= 1
    assert any("Carried on" in note for note in finding.notes)
    assert len(finding.draw()) == 3
    assert not listeners(context.model)


def test_of_a_model_without_a_world_the_sink_is_asked_too() -> None:
    finding = run_finding(REGISTRY["F1"], small_context(count=1, truth=False))
    assert relevance.SINK in [c.name for c in finding.claims]


def test_without_speech_it_is_not_testable() -> None:
    finding = run_finding(REGISTRY["F1"], small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason and finding.draw() == []
