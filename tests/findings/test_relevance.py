"""F1: statistics of simple maps, the versions of clips, and a run on a small model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked_whisper.findings import REGISTRY, run_experiment
from hooked_whisper.findings import encoder_locality as relevance
from hooked_whisper.findings.relevance_parts.measures import clip_statistics, shuffled_weights, sum_sensitivity
from hooked_whisper.findings.relevance_parts.sink import (
    CUT_SHORT,
    FADED,
    NOISE,
    RECORDED,
    VERSIONS,
    cut_clip,
    explanation,
    faded_clip,
    noisy_clip,
    sink_of,
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
    relevance_of_clip = clip_statistics(spread, ROWS, slice(10, 50), 60)
    assert relevance_of_clip.band > 4
    assert relevance_of_clip.within == pytest.approx(0, abs=1e-9)


def test_sink_counts_rows_after_the_end_that_look_at_the_boundary() -> None:
    values = np.zeros((N, N))
    values[:, 295] = 1
    sink = sink_of(values, ROWS, boundary=300, quiet=310)
    assert (sink.share, sink.peak, sink.distance, sink.local) == (1, 295, 5, 0)
    values[380:, 100] = 2
    assert sink_of(values, ROWS, 300, 310).share == pytest.approx(29 / 49)
    assert np.isnan(sink_of(values, ROWS, boundary=N, quiet=N).share)


def test_rows_that_look_at_themselves_do_not_count_as_a_sink() -> None:
    itself = sink_of(np.eye(N), ROWS, boundary=300, quiet=300)
    assert itself.share == 0 and itself.local == 1
    shifted = np.roll(np.eye(N), -25, axis=1)  # as far back as the band reaches
    assert sink_of(shifted, ROWS, boundary=300, quiet=300).share == 0


@pytest.mark.parametrize(
    ("faded", "cut", "noise", "says"),
    [
        (0.9, 0.9, 0.8, "the end of speech attracts them"),
        (0.1, 0.9, 0.0, "an edge from sound to zero attracts them"),
        (0.1, 0.2, 0.0, "neither the end of speech nor an edge"),
        (0.9, 0.9, 0.1, "do not decide"),
        (None, None, None, "not measured"),
    ],
)
def test_the_explanation_follows_from_the_shares(faded, cut, noise, says) -> None:
    assert says in explanation({RECORDED: 0.5, FADED: faded, CUT_SHORT: cut, NOISE: noise})


def test_statistics_of_few_and_of_empty_rows() -> None:
    rows = np.concatenate([np.arange(300), np.arange(300, N, 10)])
    assert stats(np.eye(N), rows=rows).band == pytest.approx(N / 51)
    nothing = stats(np.zeros((N, N)))
    assert np.isnan([nothing.band, nothing.within, nothing.distance]).all()


def test_versions_end_at_their_boundary() -> None:
    context = small_context(count=1)  # "the red cat sat" from 0.1 to 1.0 s; the window is 1.2 s
    whole, cut, faded = whole_clip(context, 0), cut_clip(context, 0), faded_clip(context, 0)
    assert whole.clip.text == "the red cat sat" and (whole.speech.start, whole.speech.stop) == (5, 50)
    assert (whole.boundary, whole.n_clip, whole.quiet) == (50, 60, 60)
    middle = 0.1 + 1.5 * 0.225  # of "red", the word spoken at 40 %
    assert cut is not None and cut.clip.text == "the"
    assert (
        len(cut.clip.samples) == pytest.approx(16_000 * middle, abs=1) and np.abs(cut.clip.samples[-100:]).max() > 0.05
    )
    assert cut.boundary == cut.quiet == cut.n_clip == context.model.time.n_positions(middle)
    assert faded is not None and faded.boundary == 50 and len(faded.clip.samples) == 16_000
    assert np.abs(faded.clip.samples[-100:]).max() < 1e-4
    np.testing.assert_array_equal(faded.clip.samples[:8_000], whole.clip.samples[:8_000])


def test_noise_continues_to_the_end_of_the_window_50_db_below_the_speech() -> None:
    context = small_context(count=1)
    big = type(context)(small_model(0, n_ctx=400), context.untrained, context.utterances)
    clip = noisy_clip(big, 0)
    assert clip is not None and clip.boundary == clip.quiet == 50 and clip.n_clip == 400
    assert len(clip.clip.samples) == 8 * 16_000
    speech, tail = clip.clip.samples[1_600:16_000], clip.clip.samples[16_000:]
    assert 20 * np.log10(tail.std() / speech.std()) == pytest.approx(-50, abs=0.5)
    assert np.array_equal(tail, noisy_clip(big, 0).clip.samples[16_000:])


def test_without_word_times_only_the_recorded_version_exists() -> None:
    context = small_context(count=1)
    clip = context.utterances[0]
    bare = context.with_utterances((clip.with_alignment(replace(clip.alignment, words=())),))
    assert whole_clip(bare, 0).boundary == whole_clip(bare, 0).n_clip
    assert cut_clip(bare, 0) is faded_clip(bare, 0) is noisy_clip(bare, 0) is None


def test_shuffled_weights_keep_every_entry_and_leave_the_model_alone() -> None:
    model = small_model(0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    mixed = shuffled_weights(model, 3)
    for (name, a), (_, b) in zip(model.named_parameters(), mixed.named_parameters(), strict=True):
        assert torch.equal(a, before[name])
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
    assert not torch.equal(model.encoder.blocks[0].attn.query.weight, mixed.encoder.blocks[0].attn.query.weight)
    assert torch.equal(model.decoder.blocks[0].attn.query.weight, mixed.decoder.blocks[0].attn.query.weight)


def test_sum_of_outputs_has_zero_gradient_unless_gains_differ() -> None:
    model, resid = small_model(0), torch.randn(1, 60, 32)
    assert sum_sensitivity(model, resid) < 1e-5
    model.encoder.ln_post.weight.data += 0.3 * torch.randn(32)
    assert 0.05 < sum_sensitivity(model, resid) < 1


def test_it_runs_draws_and_leaves_nothing_behind() -> None:
    context = small_context(count=3)
    finding = run_experiment(REGISTRY["F1"], context)
    assert finding.status == "measured, no verdict" and "clips" in finding.status_reason  # too few
    assert [c.name for c in finding.controls] == ["shuffled weights", "untrained model", "spread over the clip"]
    assert relevance.SINK not in [c.name for c in finding.claims]
    where = finding.measurement("where rows after the end look")
    assert where.axis("version").entries == VERSIONS
    assert np.isnan(where.values).all()  # the window of 60 positions ends before a row is clear of the boundary
    assert np.isfinite(finding.measurement("slope of the published scalar").values).all()
    assert finding.measurement("slope of the published scalar").values.max() < 1e-4  # all gains are 1
    words = finding.measurement("words whose most relevant audio is their own")
    assert words.values.shape == (4, 2) and 0 < words.at(what="chance").min() <= words.at(what="chance").max() <= 1
    assert any("through cross-attention" in note for note in finding.notes)
    assert len(finding.draw()) == 4
    assert not listeners(context.model)


def test_both_sinks_are_judged_for_a_model_without_truth() -> None:
    small = small_context(count=2, truth=False)
    finding = run_experiment(
        REGISTRY["F1"], type(small)(small_model(0, n_ctx=200), small_model(1, n_ctx=200), small.utterances)
    )
    assert {relevance.SINK, relevance.CUT} < {c.name for c in finding.claims}
    assert finding.controls[-1].values.keys() == {relevance.CUT}
    where = finding.measurement("where rows after the end look")
    assert np.isfinite(where.values).all() and where.at(statistic="share of rows").max() <= 1
    assert finding.measurement("where rows after the end look, by clip").at(version=NOISE)[:, -1].tolist() == [4.0, 4.0]


def test_without_speech_it_is_not_testable() -> None:
    finding = run_experiment(REGISTRY["F1"], small_context())
    assert finding.status == "not testable" and "--audio" in finding.status_reason and finding.draw() == []
