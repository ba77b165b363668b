"""Replaced spans of the encoder output, and baseline inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.interventions import BASELINE_INPUTS, baseline_encoding, baseline_mel, replace_span, replace_spans
from tests.findings.worlds import small_model

N = 12
spans = st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted)


@given(spans, st.integers(1, 3), st.integers(0, 99))
def test_replace_span_changes_only_the_span(span: list[int], batch: int, seed: int) -> None:
    a, b = span
    g = torch.Generator().manual_seed(seed)
    out, source = torch.randn(batch, N, 4, generator=g), torch.randn(1, N, 4, generator=g)
    before = out.clone()
    new = replace_span(out, a, b, source)
    assert torch.equal(out, before)
    assert torch.equal(new[:, a:b], source.expand(batch, -1, -1)[:, a:b])
    assert torch.equal(new[:, :a], out[:, :a]) and torch.equal(new[:, b:], out[:, b:])
    assert torch.equal(replace_span(out, a, b, out), out)
    assert torch.equal(replace_span(new, a, b, out), out)


@given(spans, spans)
def test_replace_spans_matches_single_replacements(first: list[int], second: list[int]) -> None:
    out, source = torch.randn(N, 4), torch.randn(N, 4)
    rows = replace_spans(out, [slice(*first), slice(*second)], source)
    for row, (a, b) in zip(rows, (first, second), strict=True):
        assert torch.equal(row, replace_span(out[None], a, b, source)[0])


def test_span_in_seconds_includes_partly_covered_positions() -> None:
    out, source = torch.zeros(1, N, 1), torch.ones(1, N, 1)
    new = replace_span(out, 0.04, 0.08, source, unit="seconds")
    assert new[0, :, 0].nonzero().flatten().tolist() == [2, 3, 4]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, N + 1), (0.5, 2)])
def test_spans_outside_are_refused(start, stop) -> None:
    with pytest.raises(HookedWhisperError):
        replace_span(torch.zeros(1, N, 1), start, stop, torch.zeros(1, N, 1))


def test_units_and_rows_are_checked() -> None:
    with pytest.raises(HookedWhisperError, match="seconds"):
        replace_span(torch.zeros(1, N, 1), 0, 1, torch.zeros(1, N, 1), unit="frames")
    with pytest.raises(HookedWhisperError):
        replace_spans(torch.zeros(N, 1), [slice(0, N + 1)], torch.zeros(N, 1))


def test_gradients_pass_through_a_patch() -> None:
    out = torch.randn(1, N, 2, requires_grad=True)
    replace_span(out, 2, 5, torch.zeros(1, N, 2)).sum().backward()
    assert out.grad[0, :, 0].tolist() == [1.0, 1, 0, 0, 0] + [1.0] * 7


def test_baseline_inputs_match_their_names() -> None:
    model = small_model()
    mels = {kind: baseline_mel(model, kind) for kind in BASELINE_INPUTS if kind != "mean encoding"}
    assert torch.allclose(mels["zero audio"], torch.tensor(-1.5))
    assert (mels["mel zero"] == 0).all() and (mels["mel floor"] == -0.75).all()
    assert mels["white noise"].std() > 0.05
    assert torch.equal(mels["white noise"], baseline_mel(model, "white noise", seed=0))
    assert not torch.equal(mels["white noise"], baseline_mel(model, "white noise", seed=1))
    assert all(m.shape == (1, 80, 120) for m in mels.values())


def test_baseline_encodings() -> None:
    model = small_model()
    zero = baseline_encoding(model)
    assert torch.allclose(zero, model.embed_audio(model.to_mel(torch.zeros(16_000))), atol=1e-5)
    clips = torch.randn(3, 60, 32)
    assert torch.allclose(baseline_encoding(model, "mean encoding", clips)[0], clips.mean(0))
    with pytest.raises(HookedWhisperError, match="clips="):
        baseline_encoding(model, "mean encoding")
    with pytest.raises(HookedWhisperError, match="zero audio"):
        baseline_mel(model, "nothing")
