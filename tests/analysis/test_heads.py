"""Head report: patterns with known measures, and the patterns of a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.analysis.head_measures import (
    cross_measures,
    decoder_measures,
    distance_histogram,
    encoder_measures,
    monotonicity,
)
from hooked_whisper.analysis.heads import MEASURES, head_report
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.protocols import Alignment, Interval
from tests.findings.worlds import small_model

N, SPEECH = 20, 12


def none(rows: int, keys: int = N) -> torch.Tensor:
    return torch.zeros(rows, keys, dtype=torch.bool)


def test_encoder_patterns_with_known_numbers() -> None:
    diagonal = torch.eye(N)
    shifted = torch.eye(N).roll(3, 1)
    uniform = torch.full((N, N), 1 / N)
    sink = torch.zeros(N, N)
    sink[:, SPEECH] = 1.0
    own_word = none(SPEECH)
    own_word[4:8, 4:8] = True
    measures = encoder_measures(torch.stack([diagonal, shifted, uniform, sink]), SPEECH, own_word)
    assert measures["distance"][:2] == pytest.approx([0, 3])
    assert measures["median distance"][:2].tolist() == [0, 3]
    apart = np.abs(np.arange(SPEECH)[:, None] - np.arange(N)).mean()
    assert measures["distance"][2] == pytest.approx(apart, rel=1e-5)
    assert measures["distance"][3] == pytest.approx(np.mean(SPEECH - np.arange(SPEECH)))
    assert measures["entropy"] == pytest.approx([0, 0, math.log(N), 0], abs=1e-6)
    assert measures["relative entropy"][2] == pytest.approx(1)
    assert measures["padding"] == pytest.approx([0, 3 / SPEECH, 8 / N, 1])
    assert measures["own word"] == pytest.approx([1, 1 / 4, 4 / N, 0])


def test_a_clip_that_fills_the_window_has_no_padding() -> None:
    measures = encoder_measures(torch.eye(N)[None], N, none(N))
    assert np.isnan(measures["padding"]).all() and np.isnan(measures["own word"]).all()


def test_decoder_patterns_with_known_numbers() -> None:
    t = 6
    previous = torch.eye(t).roll(-1, 1).tril(-1)
    previous[0, 0] = 1.0
    first = torch.zeros(t, t)
    first[:, 0] = 1.0
    uniform = torch.ones(t, t).tril() / torch.arange(1, t + 1)[:, None]
    measures = decoder_measures(torch.stack([previous, first, uniform]))
    assert measures["distance"] == pytest.approx([1, np.mean(range(1, t)), np.mean([k / 2 for k in range(1, t)])])
    assert measures["first token"] == pytest.approx([1 / (t - 1), 1, np.mean([1 / (k + 1) for k in range(1, t)])])
    assert measures["relative entropy"] == pytest.approx([0, 0, 1], abs=1e-6)


def test_cross_patterns_with_known_numbers() -> None:
    own_word = none(4)
    for row in range(3):  # the last row writes the end
        own_word[row, 3 * row : 3 * row + 3] = True
    aligned = torch.zeros(4, N)
    aligned[range(4), [1, 4, 7, 10]] = 1.0
    backwards = aligned.flip(0)
    padding = torch.zeros(4, N)
    padding[:, N - 1] = 1.0
    measures = cross_measures(torch.stack([aligned, backwards, padding]), SPEECH, own_word)
    assert measures["own word"] == pytest.approx([1, 0, 0])
    # backwards: 10 for 0-2, 7 for 3-5, 4 for 6-8
    assert measures["distance"] == pytest.approx([0, (8 + 2 + 2) / 3, (17 + 14 + 11) / 3])
    assert measures["monotonicity"][:2] == pytest.approx([1, -1]) and np.isnan(measures["monotonicity"][2])
    assert measures["forward steps"] == pytest.approx([1, 0, 0])
    assert measures["padding"] == pytest.approx([0, 0, 1])


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4))
def test_the_histogram_is_a_histogram(seed: int, queries: int, keys: int, first: int) -> None:
    rows = torch.randn(2, queries, keys, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    by_distance = distance_histogram(rows, first)
    assert by_distance.sum(-1).tolist() == pytest.approx([1, 1], rel=1e-5)
    apart = (torch.arange(first, first + queries)[:, None] - torch.arange(keys)).abs()
    mean = (by_distance * torch.arange(by_distance.shape[1])).sum(-1)
    torch.testing.assert_close(mean, (rows * apart).sum(-1).mean(-1), rtol=1e-4, atol=1e-5)


def test_monotonicity_needs_three_rows() -> None:
    assert np.isnan(monotonicity(np.array([[1.0, 2.0]]))).all()
    assert monotonicity(np.array([[1.0, 2.0, 9.0], [3.0, 1.0, 2.0]])) == pytest.approx([1, -0.5])


@pytest.fixture(scope="module")
def setting():
    model = small_model(3)
    mel = torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(0))
    words = (Interval(0.1, 0.4, "the"), Interval(0.4, 0.7, "cat"), Interval(0.7, 0.9, "sat"))
    alignments = [Alignment(f"u{k}", "s", "the cat sat", 1.0 + 0.1 * k, words) for k in range(2)]
    return model, mel, alignments


def test_the_report_matches_the_cached_patterns(setting) -> None:
    model, mel, alignments = setting
    report = head_report(model, mel, alignments=alignments)
    assert {stack: set(m) for stack, m in report.values.items()} == {s: set(m) for s, m in MEASURES.items()}
    tokens = model.to_tokens(" the cat sat")
    _, cache = model.run_with_cache(mel, tokens.expand(2, -1), names_filter=["*hook_pattern"])
    for clip, n_speech in enumerate((50, 55)):
        encoder = cache["encoder.blocks.1.attn.hook_pattern"][clip, :, :n_speech]
        assert report.values["encoder"]["padding"][clip, 1] == pytest.approx(
            encoder[..., n_speech:].sum(-1).mean(-1).numpy(), rel=1e-4
        )
        cross = cache["decoder.blocks.0.cross_attn.hook_pattern"][clip]
        # the row of <|notimestamps|> writes "the", at positions 5 to 20; and so on
        own_word = [cross[:, 3, 5:21].sum(-1), cross[:, 4, 20:36].sum(-1), cross[:, 5, 35:46].sum(-1)]
        assert report.values["cross"]["own word"][clip, 0] == pytest.approx(
            torch.stack(own_word).mean(0).numpy(), rel=1e-4
        )
        first = cache["decoder.blocks.1.attn.hook_pattern"][clip, :, 1:, 0].mean(-1)
        assert report.values["decoder"]["first token"][clip, 1] == pytest.approx(first.numpy(), rel=1e-4)
    assert not model.list_hooks()


def test_means_intervals_tables_and_drawings(setting) -> None:
    model, mel, alignments = setting
    report = head_report(model, mel, alignments=alignments)
    low, high = report.interval("encoder", "distance")
    mean = report.mean("encoder", "distance")
    assert (low <= mean + 1e-9).all() and (mean <= high + 1e-9).all()
    rows = report.to_rows()
    assert len(rows) == 4 * sum(map(len, MEASURES.values()))
    assert rows[0] == {
        "stack": "encoder",
        "block": 0,
        "head": 0,
        "measure": "distance",
        "unit": "seconds",
        "mean": pytest.approx(0.02 * mean[0, 0]),
        "low": pytest.approx(0.02 * low[0, 0]),
        "high": pytest.approx(0.02 * high[0, 0]),
        "clips": 2,
    }
    assert report.plot("cross", "own word").axes
    text = repr(report)
    assert f"{0.02 * mean.min():.3g}" in text and "seconds" in text and "positions" not in text
    assert f"{0.02 * mean.min():.3g}" in [label.get_text() for label in report.plot().axes[0].texts]
    assert all(f"{stack}0." in text or f"{stack}1." in text for stack in "EX") and "most local" in text
    best = report.ranked("encoder", "distance", largest=False)
    assert mean[best.pairs[0]] == best.values[0] == mean.min() and len(best) == 4 and best[0].stack == "encoder"
    assert [row["value"] for row in best[:2].to_rows()] == list(best.values[:2]) and best.plot().axes


def test_only_the_encoder_and_only_tokens(setting) -> None:
    model, mel, _ = setting
    assert set(head_report(model, mel, durations=[1.0, 0.5]).values) == {"encoder"}
    whole = head_report(model, mel[:1])
    assert np.isnan(whole.mean("encoder", "padding")).all()
    assert np.isnan(whole.interval("encoder", "distance")).all()
    report = head_report(model, mel, model.to_tokens(" the cat").expand(2, -1), durations=[1, 1])
    assert np.isnan(report.mean("cross", "own word")).all()
    assert np.isfinite(report.mean("cross", "monotonicity")).all()


def test_errors(setting) -> None:
    model, mel, alignments = setting
    with pytest.raises(HookedWhisperError, match="1 alignments for 2 clips"):
        head_report(model, mel, alignments=alignments[:1])
    with pytest.raises(HookedWhisperError, match="no clips"):
        head_report(model, mel[:0])
    report = head_report(model, mel)
    with pytest.raises(HookedWhisperError, match="did you mean 'distance'"):
        report.mean("encoder", "distances")
    with pytest.raises(HookedWhisperError, match="no stack 'cross'"):
        report.plot("cross")
