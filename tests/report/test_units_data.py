"""The data contract: invalid values are errors with a remedy; records and geometry equal slow references."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hooked_whisper._support.mel_image import mel_png
from hooked_whisper.errors import AudioError, HookedWhisperError
from hooked_whisper.protocols import Interval
from hooked_whisper.report.units import (
    POSITION_S,
    ActivationRange,
    Histogram,
    LogitEffects,
    MeanMel,
    OnsetMeans,
    PhoneShare,
    SiteInfo,
    UnitExample,
    UnitStats,
)
from hooked_whisper.report.units.figures import histogram_figure, onset_figure, phone_colors, spread
from hooked_whisper.report.units.pages import embedded
from hooked_whisper.report.units.records import (
    clip_record,
    clip_script,
    label_at,
    loop_s,
    read_clip_script,
    unit_record,
)
from tests.report.units_worlds import HOSTILE, by_speaker, clip, examples, info, trace, unit, with_samples

NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"id": ""}, HookedWhisperError, "id"),
        ({"samples": np.zeros(0, np.float32)}, AudioError, "excerpt"),
        ({"samples": np.zeros(31 * 16_000, np.float32)}, AudioError, "at most 30 s"),
        ({"samples": np.full(48_000, NAN, np.float32)}, AudioError, "NaN"),
        ({"mel": np.full((80, 300), np.inf, np.float32)}, AudioError, "infinity"),
        ({"mel": np.zeros((80, 250), np.float32)}, AudioError, "300 mel frames"),
        ({"words": (Interval(3.5, 4.0, "late"),)}, HookedWhisperError, "start of the excerpt"),
    ],
)
def test_clips_that_cannot_be_shown(change, error, says) -> None:
    with pytest.raises(error, match=says):
        samples = change.pop("samples", clip("a").clip.samples)
        with_samples(clip("a"), samples, **change)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UnitExample("a", np.array([1.0, NAN]), 0, "top"), "NaN"),
        (lambda: UnitExample("a", trace(3), 150, "top"), "peak at 150"),
        (lambda: UnitExample("a", trace(3), -1, "top"), "peak at -1"),
        (lambda: UnitExample("a", trace(3), 3, "top", -0.1), "cut its trace"),
        (lambda: UnitStats(1.2, 0.0, 1.0, 1.0, 0.0), "statistics"),
        (lambda: UnitStats(0.2, NAN, 1.0, 1.0, 0.0), "NaN"),
        (lambda: UnitStats(0.2, 0.0, 1.0, -1.0, 0.0), "statistics"),
        (lambda: Histogram(np.arange(4.0), np.arange(4)), "one edge more"),
        (lambda: Histogram(np.array([0.0, 0.0]), np.array([1])), "ascend"),
        (lambda: Histogram(np.array([0.0, 1.0]), np.array([-1])), "negative"),
        (lambda: PhoneShare("s", 0.5, 0.6, 0.7), "low <= share"),
        (lambda: ActivationRange(1.0, 0.0, 3, (), 0.0), "1.0 to 0.0"),
        (lambda: ActivationRange(0.0, 1.0, 3, (PhoneShare("a", 1, 1, 1), PhoneShare("b", 1, 1, 1)), 0.0), "at most 1"),
        (lambda: OnsetMeans(np.arange(3.0), {"s": np.zeros(4)}), "give 3"),
        (lambda: OnsetMeans(np.zeros(3), {}), "ascend"),
        (lambda: LogitEffects(("a",), (), (), ()), "one value"),
        (lambda: MeanMel(np.zeros((80, 10)), 10), "peak"),
        (lambda: unit(-1), "unit is -1"),
        (lambda: unit(0, score=NAN), "score"),
        (lambda: unit(0, (UnitExample("a", trace(3), 3, 5),)), "range 5"),
        (lambda: info((1, 1)), "each unit once"),
        (lambda: info((1536,)), "0 to 1535"),
    ],
)
def test_units_that_cannot_be_shown(make, says) -> None:
    with pytest.raises(HookedWhisperError, match=says):
        make()


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-5, 5)), st.data())
def test_the_active_moment_against_a_walk(values, data) -> None:
    peak = data.draw(st.integers(0, len(values) - 1))
    half = (values[peak] + values.min()) / 2
    first = last = peak
    while first > 0 and values[first - 1] > half:
        first -= 1
    while last + 1 < len(values) and values[last + 1] > half:
        last += 1
    example = UnitExample("a", values, peak, "top", 0.3)
    expected = (0.3 + (first - 0.5) * POSITION_S, 0.3 + (last + 0.5) * POSITION_S)
    assert example.active_s == pytest.approx(expected)
    start, end = loop_s(example, 0.3 + len(values) * POSITION_S)
    assert 0 <= start <= example.active_s[0] + 1e-9 and start <= example.peak_s <= end
    assert end - start >= min(0.24, 0.3 + len(values) * POSITION_S) / 2 - 1e-9


def test_clip_scripts_are_read_back_and_escaped() -> None:
    hostile = dataclasses.replace(clip("a"), text=HOSTILE, words=(Interval(0.0, 1.0, HOSTILE),))
    hostile = by_speaker(hostile, '");alert(1);("')
    script = clip_script("name", clip_record(hostile))
    assert read_clip_script(script) == clip_record(hostile)
    assert script.isascii() and script.startswith(b'HW.clip("name", {') and script.count(b"\n") == 1


def test_embedded_json_cannot_end_its_script() -> None:
    text = str(embedded({"a": HOSTILE + "&amp;"}))
    assert not set(text) & set("<>&\u2028") and json.loads(text) == {"a": HOSTILE + "&amp;"}
    with pytest.raises(ValueError):
        embedded([NAN])


def test_unit_records_use_neuronpedia_names() -> None:
    ids = [f"c{i}" for i in range(25)]
    clips = {id: clip_record(clip(id)) for id in ids}
    record = unit_record(info(), unit(1, examples(ids)), clips)
    json.dumps(record, allow_nan=False)
    names = {
        "modelId",
        "layer",
        "index",
        "frac_nonzero",
        "maxActApprox",
        "pos_str",
        "pos_values",
        "neg_str",
        "neg_values",
    }
    assert names <= set(record)
    assert len(record["freq_hist_data_bar_values"]) == len(record["freq_hist_data_bar_heights"]) == 50
    first = record["activations"][0]
    assert {"tokens", "values", "bin_min", "bin_max", "bin_contains", "qualifying_token_index"} <= set(first)
    assert len(first["tokens"]) == len(first["values"]) == 150
    assert first["values"][first["qualifying_token_index"]] == pytest.approx(5.2, abs=1e-3)
    assert first["tokens"][20] == "s" and first["peak_s"] == pytest.approx(1.5 + 0.4)
    expected = [label_at(clips["c0"]["phones"], i * POSITION_S + 1e-9) for i in range(150)]
    assert first["tokens"] == expected


def test_spectrogram_keeps_rows_and_columns() -> None:
    from PIL import Image

    mel = np.zeros((80, 120), np.float32)
    mel[3, 7] = 2.0
    png = mel_png(mel)
    image = Image.open(io.BytesIO(png))
    levels = np.asarray(image)
    assert image.size == (120, 80) and levels.max() == 15
    assert levels[80 - 1 - 3, 7] == 15 and (levels == 15).sum() == 1
    assert len(set(mel_png(np.full((80, 5), 3.0)))) > 1  # a constant image does not divide by zero


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 150)))
def test_labels_are_spread_in_order(places) -> None:
    out = spread(places, 11.0, 10.0, 150.0)
    order = np.argsort(places, kind="stable")
    gap = min(11.0, 140 / max(1, len(places) - 1))
    assert (np.diff(out[order]) >= gap - 1e-9).all()
    assert out.min() >= 10 - 1e-9 and out.max() <= 150 + 1e-9
    # labels with enough room stay
    alone = np.array([40.0, 80.0])
    assert spread(alone, 11.0, 10.0, 150.0).tolist() == [40, 80]


def test_figures_contain_the_data() -> None:
    shown = unit(0)
    colors = phone_colors(shown)
    assert colors["s"] == 0 and len(set(colors.values())) == len(colors) <= 10
    drawn = histogram_figure(shown.histogram, shown)
    assert len(drawn.bars) == int((shown.histogram.counts > 0).sum())
    tops = [b.y for b in drawn.bars]
    assert tops == sorted(tops) and all(8 <= b.y < 156 and b.height > 0 for b in drawn.bars)
    assert [t.text for t in drawn.y_ticks] == ["1", "100", "10k", "1M"]
    lines = onset_figure(shown.onset, colors).lines
    assert {line.phone for line in lines} == {"s", "z", "f", "m"}
    assert "s: largest 4 at 60 ms" in [line.title for line in lines]
    assert re.fullmatch(r"([\d.]+,[\d.]+ ?)+", lines[0].points)
    assert onset_figure(shown.onset, {}) is None
    flat = OnsetMeans(np.array([0.0, 0.1]), {"s": np.zeros(2)})
    assert onset_figure(flat, {"s": 0}) is not None
    empty = Histogram(np.array([0.0, 1.0]), np.array([0]))
    assert histogram_figure(empty, shown).bars == ()


def test_site_info_takes_any_order() -> None:
    assert SiteInfo("t", "m", "h", "c", (5, 2), 6).indices == (5, 2)
