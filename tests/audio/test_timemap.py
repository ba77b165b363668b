from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.audio import Rounding, TimeMap, log_mel_spectrogram
from hooked_whisper.errors import AudioError

ROUNDINGS: tuple[Rounding, ...] = ("nearest", "inner", "outer")
maps = st.builds(TimeMap, hop=st.sampled_from([80, 160]), stride=st.integers(1, 3), n_ctx=st.integers(1, 200))
whisper_map = TimeMap()


@st.composite
def map_and_cuts(draw: st.DrawFn) -> tuple[TimeMap, list[int]]:
    """A time map and sorted samples within its window, both ends among them."""
    time = draw(maps)
    cuts = draw(st.lists(st.integers(0, time.n_samples), max_size=8))
    return time, sorted({0, time.n_samples, *cuts})


def cell(time: TimeMap, i: int) -> tuple[float, float]:
    """Samples nearer to this position than to any other."""
    half = time.samples_per_position / 2
    start = 0 if i == 0 else i * time.samples_per_position - half
    return start, time.n_samples if i == time.n_ctx - 1 else i * time.samples_per_position + half


def test_known_whisper_values() -> None:
    assert (whisper_map.n_samples, whisper_map.n_frames, whisper_map.duration) == (480000, 3000, 30.0)
    assert whisper_map.seconds_per_position == 0.02
    assert whisper_map.seconds(75) == 1.5
    assert whisper_map.span(0.4, 0.8) == slice(20, 40)
    assert whisper_map.span(0.58, 1.16) == slice(29, 58)  # 0.58 * 50 < 29 in floats
    assert whisper_map.span(0.4, 0.8, "inner") == slice(21, 40)
    assert whisper_map.span(0.4, 0.8, "outer") == slice(20, 41)
    assert whisper_map.span(0.0, 30.0, "inner") == slice(0, 1500)
    assert whisper_map.receptive_field(100) == (32000 - 519, 32000 + 520)
    assert whisper_map.receptive_field(0) == (0, 520)
    assert whisper_map.receptive_field(1499)[1] == 480000
    assert [whisper_map.n_positions(s) for s in (0, 0.001, 0.02, 0.021, 30)] == [0, 1, 1, 2, 1500]


def test_the_end_of_the_window() -> None:
    assert whisper_map.span(29.0, 29.995, "inner") == slice(1451, 1499)  # the last cell reaches to 30.0
    assert whisper_map.span(29.0, 29.995, "outer") == slice(1450, 1500)
    assert whisper_map.span(29.995, 30.0, "outer") == slice(1499, 1500)
    assert whisper_map.span(29.995, 30.0) == slice(1500, 1500)
    assert whisper_map.position(29.999) == 1499 and whisper_map.frame(29.999) == 2999
    odd_map = TimeMap(hop=80, stride=3, n_ctx=67)  # 1.005 s * 16000 < 16080 in floats
    assert odd_map.span(0.0, odd_map.duration, "inner") == slice(0, 67)
    assert whisper_map.span(-5e-7, 30 + 5e-7) == slice(0, 1500) and whisper_map.sample(30 + 5e-7) == 480000


@given(maps, st.data())
def test_round_trips(time: TimeMap, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, time.n_ctx - 1))
    frame = data.draw(st.integers(0, time.n_frames - 1))
    sample = data.draw(st.integers(0, time.n_samples))
    assert time.position(time.seconds(position)) == position
    assert time.frame(time.frame_seconds(frame)) == frame
    assert time.sample(time.sample_seconds(sample)) == sample
    assert time.frame(time.seconds(position)) == time.stride * position
    start, end = cell(time, time.position(time.sample_seconds(sample)))
    assert start <= sample < end or sample == time.n_samples


@given(map_and_cuts())
def test_nearest_spans_partition_the_window(case: tuple[TimeMap, list[int]]) -> None:
    time, cuts = case
    covered = [
        i
        for a, b in pairwise(cuts)
        for i in range(time.n_ctx)[time.span(time.sample_seconds(a), time.sample_seconds(b))]
    ]
    assert covered == list(range(time.n_ctx))


@given(map_and_cuts())
def test_spans_match_their_description(case: tuple[TimeMap, list[int]]) -> None:
    time, cuts = case
    for a, b in pairwise(cuts):
        spans = {
            r: set(range(time.n_ctx)[time.span(time.sample_seconds(a), time.sample_seconds(b), r)]) for r in ROUNDINGS
        }
        cells = [cell(time, i) for i in range(time.n_ctx)]
        assert spans["nearest"] == {i for i in range(time.n_ctx) if a <= i * time.samples_per_position < b}
        assert spans["inner"] == {i for i, (start, end) in enumerate(cells) if a <= start and end <= b}
        assert spans["outer"] == {i for i, (start, end) in enumerate(cells) if start < b and a < end}
        assert spans["inner"] <= spans["nearest"] <= spans["outer"] != set()


@given(maps, st.data())
def test_span_seconds_gives_the_span_back(time: TimeMap, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, time.n_ctx - 1))
    positions = slice(start, data.draw(st.integers(start + 1, time.n_ctx)))
    for rounding in ROUNDINGS:
        assert time.span(*time.span_seconds(positions), rounding) == positions


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_empty_time_span_has_no_positions(rounding: Rounding) -> None:
    for t in (0.0, 0.013, 0.4, 30.0):
        span = whisper_map.span(t, t, rounding)
        assert span.start == span.stop


@pytest.mark.parametrize("position", [0, 1, 5, 9, 10, 11])
def test_receptive_field_by_gradient(position: int) -> None:
    time = TimeMap(n_ctx=12)
    generator = torch.Generator().manual_seed(position)
    audio = torch.randn(time.n_samples, generator=generator, dtype=torch.float64, requires_grad=True)
    w1 = torch.randn(4, 80, 3, generator=generator, dtype=torch.float64)
    w2 = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    mel = log_mel_spectrogram(audio, reference_max=-100.0)[None]
    stem = F.gelu(F.conv1d(F.gelu(F.conv1d(mel, w1, padding=1)), w2, stride=2, padding=1))
    assert stem.shape[-1] == time.n_ctx
    stem[0, :, position].sum().backward()
    assert audio.grad is not None
    heard = audio.grad.nonzero().flatten()
    assert (heard[0].item(), heard[-1].item() + 1) == time.receptive_field(position)


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.span(1.0, 0.5),
        lambda t: t.span(-0.1, 0.5),
        lambda t: t.span(0.0, 30.5),
        lambda t: t.span(float("nan"), 1.0),
        lambda t: t.span(0.0, float("nan")),
        lambda t: t.seconds(1500),
        lambda t: t.seconds(-1),
        lambda t: t.position(30.1),
        lambda t: t.sample(float("inf")),
        lambda t: t.frame_seconds(3000),
        lambda t: t.sample_seconds(480001),
        lambda t: t.receptive_field(1500),
        lambda t: t.n_positions(31),
        lambda t: t.span_seconds(slice(0, 10, 2)),
        lambda t: t.span_seconds(slice(10, 5)),
        lambda t: TimeMap(n_ctx=0),
        lambda t: TimeMap(hop=-1),
    ],
)
def test_errors(call) -> None:
    with pytest.raises(AudioError):
        call(whisper_map)


def test_unknown_rounding(unchecked: None) -> None:
    with pytest.raises(AudioError, match="'nearest'"):
        whisper_map.span(0.0, 1.0, "closest")  # type: ignore[arg-type]
