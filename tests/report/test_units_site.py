"""The site writer: files are complete, shared, reproducible, small and escaped."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import correlate

import hooked_whisper
from hooked_whisper.audio import load_audio, log_mel_spectrogram, to_mp3_bytes
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.report.units import SiteWriter, Unit, UnitExample, UnitStats
from hooked_whisper.report.units import site as site_module
from tests.report.test_page import parse
from tests.report.units_worlds import HOSTILE, by_speaker, clip, examples, info, trace, unit, with_samples

DEMO_CLIPS = Path(hooked_whisper.__file__).parent / "demo" / "clips"
IDS = [f"speaker/clip {i}" for i in range(25)]


def build(out, indices=(0, 1, 2), ids=IDS[:4]):
    site = SiteWriter(out, info(indices))
    for i, id in enumerate(ids):
        site.add_clip(clip(id, i))
    for i in indices:
        site.add_unit(unit(i, examples(ids)))
    site.finish()
    return site


def contents(out) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_second_build_writes_the_same_bytes_and_encodes_nothing(tmp_path, monkeypatch) -> None:
    build(tmp_path)
    before = contents(tmp_path)
    assert not any(name.split("/")[-1].startswith(".") for name in before)

    def never(*args, **kwargs):
        raise AssertionError("encoded again")

    monkeypatch.setattr(site_module, "to_mp3_bytes", never)
    monkeypatch.setattr(site_module, "moment_mp3", never)
    monkeypatch.setattr(site_module, "mel_png", never)
    build(tmp_path)
    assert contents(tmp_path) == before


def test_an_interrupted_build_resumes(tmp_path, monkeypatch) -> None:
    whole = tmp_path / "whole"
    build(whole)
    out = tmp_path / "cut"
    encode, calls = site_module.to_mp3_bytes, []

    def dies(samples):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(samples)

    monkeypatch.setattr(site_module, "to_mp3_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        build(out)
    left = contents(out)
    assert left and all(contents(whole)[name] == data for name, data in left.items())
    build(out)
    assert contents(out) == contents(whole)


def test_a_partly_written_clip_is_written_again(tmp_path, monkeypatch) -> None:
    def full(mel):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(site_module, "mel_png", full)
        with pytest.raises(OSError):
            SiteWriter(tmp_path, info()).add_clip(clip("a"))
        assert not SiteWriter(tmp_path, info()).has_clip("a")
    assert [p.suffix for p in (tmp_path / "clips").iterdir()] == [".mp3"]
    SiteWriter(tmp_path, info()).add_clip(clip("a"))
    assert sorted(p.suffix for p in (tmp_path / "clips").iterdir()) == [".js", ".mp3", ".png"]


def test_units_share_clips_and_equal_moments(tmp_path) -> None:
    build(tmp_path)
    by_suffix: dict[str, int] = {}
    for p in (tmp_path / "clips").iterdir():
        by_suffix[p.suffix] = by_suffix.get(p.suffix, 0) + 1
    assert by_suffix == {".js": 4, ".png": 4, ".mp3": 4 + 4}


def test_changed_content_gets_a_new_file(tmp_path) -> None:
    SiteWriter(tmp_path, info()).add_clip(clip("a", 0))
    old = contents(tmp_path)
    SiteWriter(tmp_path, info()).add_clip(clip("a", 1))
    new = contents(tmp_path)
    assert len(new) == len(old) + 3 and all(new[name] == data for name, data in old.items())


def test_the_moment_amplifies_the_peak(tmp_path) -> None:
    site = SiteWriter(tmp_path, info((0,)))
    quiet = clip("a")
    t = np.arange(48_000) / 16_000
    quiet = with_samples(quiet, (0.05 * np.sin(2 * np.pi * 440 * t)).astype(np.float32))
    site.add_clip(quiet)
    site.add_unit(unit(0, (UnitExample("a", trace(50), 50, "top"),)))
    (path,) = (tmp_path / "clips").glob("*-1000.mp3")
    samples, rate = soundfile.read(io.BytesIO(path.read_bytes()))
    assert rate == 16_000 and len(samples) == 16_000
    loud, around = (np.sqrt(2 * np.mean(x**2)) for x in (samples[7_600:8_400], samples[2_000:6_000]))
    assert loud == pytest.approx(0.5, rel=0.1) and around == pytest.approx(0.05, rel=0.1)


def test_mp3_keeps_sample_positions() -> None:
    samples = np.zeros(48_000, np.float32)
    samples[16_000:17_600] = 3 * np.sin(np.arange(1_600) * 0.6)
    decoded, rate = soundfile.read(io.BytesIO(to_mp3_bytes(samples)))
    assert rate == 16_000 and decoded.shape == samples.shape
    assert np.argmax(correlate(decoded, samples, "full")) == len(samples) - 1
    assert 0.7 < np.abs(decoded).max() <= 1
    assert len(to_mp3_bytes(np.zeros(160, np.float32))) > 0


def test_no_mp3_is_beyond_full_scale() -> None:
    rng, t = np.random.default_rng(0), np.arange(48_000)
    tones = [np.sin(t * f) for f in rng.uniform(0.05, 3, 5)]
    hostile = [rng.uniform(-1, 1, 48_000), 40 * rng.normal(size=48_000), *tones, *(np.sign(x) for x in tones)]
    for samples in hostile:
        decoded, _ = soundfile.read(io.BytesIO(to_mp3_bytes(samples.astype(np.float32))))
        assert 0.3 < np.abs(decoded).max() <= 1


def test_unknown_names_suggest_near_ones(tmp_path) -> None:
    site = SiteWriter(tmp_path, info())
    site.add_clip(clip("rec-12"))
    assert site.has_clip("rec-12") and not site.has_clip("rec-13")
    with pytest.raises(HookedWhisperError, match="did you mean 'rec-12'"):
        site.add_unit(unit(0, (UnitExample("rec-1", trace(3), 3, "top"),)))
    with pytest.raises(HookedWhisperError, match="not in the site's indices"):
        site.add_unit(unit(7))
    with pytest.raises(HookedWhisperError, match="two different clips"):
        site.add_clip(clip("rec-12", seed=1))
    with pytest.raises(HookedWhisperError, match="rec-12"):
        site.add_unit(unit(0, (UnitExample("rec-12", trace(3, 160), 155, "top"),)))
    with pytest.raises(HookedWhisperError, match=r"a trace ends at 3\.18 s"):
        site.add_unit(unit(0, (UnitExample("rec-12", trace(3, 160), 3, "top"),)))
    with pytest.raises(HookedWhisperError, match="3 units were not added"):
        site.finish()
    assert not (tmp_path / "index.html").exists() and not (tmp_path / "units" / "0.html").exists()


def test_hostile_text_is_text(tmp_path) -> None:
    site = SiteWriter(
        tmp_path,
        dataclasses.replace(info((0,)), **dict.fromkeys(("title", "model", "hook", "corpus", "command"), HOSTILE)),
    )
    hostile = dataclasses.replace(clip("../../" + HOSTILE), text=HOSTILE, words=())
    site.add_clip(by_speaker(hostile, HOSTILE, recording=HOSTILE))
    example = UnitExample("../../" + HOSTILE, trace(3), 3, "top")
    hostile = dataclasses.replace(
        unit(0, (example,), HOSTILE), evidence=HOSTILE, notes=(HOSTILE,), selectivity={HOSTILE: 1}
    )
    site.add_unit(hostile)
    site.finish()
    files = contents(tmp_path)
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) and ".." not in name for name in files)
    for name, data in files.items():
        if name.endswith(".html"):
            parser = parse(data.decode())
            assert not parser.problems and not parser.stack, name
            assert not any("onerror" in a for _, a in parser.elements), name
            sources = [a.get("src", "") for tag, a in parser.elements if tag == "img"]
            assert all(re.fullmatch(r"(\.\./clips/[\w-]+|\d+)\.png", source) for source in sources)
            assert not re.search(r"https?://", data.decode())
    assert json.loads(files["units.json"])["units"][0]["description"] == HOSTILE


def test_tags_nest_without_optional_parts(tmp_path) -> None:
    site = SiteWriter(tmp_path, info((3, 0)))
    site.add_clip(clip("a"))
    bare = Unit(3, UnitStats(0.0, 0, 0, 0, 0, True))
    site.add_unit(bare)
    site.add_unit(
        unit(
            0,
            (
                UnitExample("a", trace(3), 3, "top"),
                UnitExample("a", trace(0), 0, 2),
                UnitExample("a", trace(9), 9, "random"),
            ),
        )
    )
    site.finish()
    dead, full = ((tmp_path / "units" / f"{i}.html").read_text() for i in (3, 0))
    assert "never active" in dead and "No examples" in dead and 'rel="next" href="0.html"' in dead
    assert 'rel="prev" href="3.html"' in full and 'rel="next"' not in full
    for page in (dead, full, (tmp_path / "index.html").read_text()):
        parser = parse(page)
        assert not parser.problems and not parser.stack
        ids = [a["id"] for _, a in parser.elements if "id" in a]
        assert len(ids) == len(set(ids))
    assert full.index("Strongest") < full.index("From 2 to 3") < full.index("Drawn at random")
    alts = [a["aria-label"] for t, a in parse(full).elements if t == "svg"]
    assert any("5 at 0.06 s" in alt for alt in alts)
    assert all(a.get("type") != "submit" for t, a in parse(full).elements if t == "button")


def test_a_unit_of_25_examples_weighs_at_most_800_kb(tmp_path) -> None:
    """With 3 s of the demo's spoken clips without pauses, none shared."""
    spoken = torch.cat([load_audio(path) for path in sorted(DEMO_CLIPS.glob("*.flac"))])
    starts = np.linspace(0, len(spoken) - 48_000, len(IDS)).astype(int).tolist()
    site = SiteWriter(tmp_path, info((0,)))
    for id, start in zip(IDS, starts, strict=True):
        part = spoken[start : start + 48_000]
        mel = log_mel_spectrogram(part)[:, :300]
        site.add_clip(with_samples(clip(id), part.numpy(), mel=mel.numpy()))
    site.add_unit(unit(0, examples(IDS)))
    site.finish()
    files = contents(tmp_path)
    assert sum(p.endswith(".mp3") for p in files) == 50
    assert sum(map(len, files.values())) <= 800_000
    assert max(len(d) for n, d in files.items() if n.startswith("clips/")) <= 30_000


def test_1536_units_in_bounded_time_and_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(site_module, "write_atomic", lambda path, data: sizes.append(len(data)))
    sizes: list[int] = []
    n = 1536
    site = SiteWriter(tmp_path, info(tuple(range(n))))
    started = time.process_time()
    for i in range(n):
        if i == 100:  # tracing is slow: some units show whether they stay in memory
            gc.collect()
            tracemalloc.start()
        if i == 300:
            gc.collect()
            ours = [tracemalloc.Filter(True, f"*/{part}/*") for part in ("report/units", "jinja2", "json")]
            held = sum(t.size for t in tracemalloc.take_snapshot().filter_traces(ours).traces)
            tracemalloc.stop()
        site.add_unit(unit(i) if i % 50 == 0 else Unit(i, UnitStats(0.1, 0, 1, 2, 0), f"/{i}/", score=i / n))
    site.finish()
    assert time.process_time() - started < 15
    assert held < 200 * 1_500  # one row of the index per unit
    assert sizes[-1] < 200_000  # the index


def test_without_phones_there_is_no_chart_of_phones(tmp_path) -> None:
    site = SiteWriter(tmp_path, info((0, 1)))
    known = unit(0)
    unknown = tuple(dataclasses.replace(span, phones=(), entropy=0.0) for span in known.ranges)
    site.add_unit(known)
    site.add_unit(dataclasses.replace(known, index=1, ranges=unknown, base_rates={}))
    site.finish()
    shown = [(tmp_path / "units" / f"{i}.html").read_text() for i in (0, 1)]
    assert ["Phones by range" in page for page in shown] == [True, False]
