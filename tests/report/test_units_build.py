"""Building a site from a corpus: pages equal the model's activations; the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import TimeMap
from hooked_whisper.cli.features import units
from hooked_whisper.cli.parser import main
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features import random_orthonormal
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from hooked_whisper.report.units import PageOptions, build_site
from hooked_whisper.report.units.excerpts import captions, excerpt_round, linear_histogram
from tests.findings.worlds import small_model

HOOK = "encoder.blocks.1.mlp.hook_post"
OPTIONS = PageOptions(top=3, per_range=1, ranges=3)
PHONES = ("s", "i", "t")


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)  # a window of 1.2 s


def recordings(n: int = 8, aligned: bool = True) -> list[Recording]:
    """Noise bursts of up to three windows; a phone every 0.1 s."""
    recordings = []
    for k in range(n):
        rng = np.random.default_rng(k)
        seconds = float(rng.integers(5, 32)) / 10
        sound = (0.2 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)
        edges = np.arange(0, seconds - 0.05, 0.1)
        phones = tuple(Interval(a, a + 0.1, (SILENCE, *PHONES)[i % 4]) for i, a in enumerate(edges.tolist()))
        words = (Interval(0.1, min(0.5, seconds), "<b>sit"),)
        alignment = Alignment(f"r{k}", f"s{k % 2}", "<b>sit", seconds, words, phones)
        find = (lambda a=alignment: a) if aligned else None
        recordings.append(Recording(f"r{k}", sound, speaker=f"s{k % 2}", text="<b>sit", find_alignment=find))
    return recordings


def test_pages_equal_the_model(model: HookedWhisper, tmp_path: Path) -> None:
    corpus = recordings()
    index = build_site(model, corpus, HOOK, tmp_path, units=[3, 7, 40], options=OPTIONS, progress=False)
    assert index == tmp_path / "index.html" and index.exists()
    site = json.loads((tmp_path / "units.json").read_text())
    assert [u["index"] for u in site["units"]] == [3, 7, 40] and site["n_units"] == 64
    unit = json.loads((tmp_path / "units/7.json").read_text())
    assert len(unit["activations"]) >= 5
    by_id = {clip.id: clip for clip in corpus}
    for example in unit["activations"]:
        recording, start = example["recording"], example["start_s"]
        samples = by_id[recording].audio()
        size = model.time.n_samples
        window = round(start / 0.02) // model.time.n_ctx
        part = samples[window * size : (window + 1) * size]
        mel = model.to_mel(torch.nn.functional.pad(part, (0, size - len(part))))
        _, cache = model.run_with_cache(mel, names_filter=HOOK, stop_early=True)
        first = round(start / 0.02) - window * model.time.n_ctx
        values = np.array(example["values"])
        truth = cache[HOOK][0, first : first + len(values), 7].numpy()
        np.testing.assert_allclose(values, truth, atol=2e-3)
    assert (tmp_path / "units/7.html").read_text().count("<b>sit") == 0


def test_a_second_build_is_equal(model: HookedWhisper, tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, bytes]:
        build_site(model, recordings(), HOOK, folder, units=[1, 2], options=OPTIONS, progress=False)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    first = build(tmp_path / "a")
    assert build(tmp_path / "a") == first == build(tmp_path / "b")


def test_without_alignments_and_with_a_basis(model: HookedWhisper, tmp_path: Path) -> None:
    basis = random_orthonormal(32, 4)
    build_site(
        model, recordings(3, aligned=False), "encoder.blocks.0", tmp_path, basis=basis, options=OPTIONS, progress=False
    )
    site = json.loads((tmp_path / "units.json").read_text())
    assert len(site["units"]) == 4 and {u["description"] for u in site["units"]} == {""}
    assert "no recording has phones" in site["facts"]["phone labels"]


def test_one_speaker_is_not_enough_for_labels(model: HookedWhisper, tmp_path: Path) -> None:
    build_site(model, recordings(1), HOOK, tmp_path, units=[0], options=OPTIONS, progress=False)
    assert "two speakers" in json.loads((tmp_path / "units.json").read_text())["facts"]["phone labels"]


def test_units_that_do_not_exist(model: HookedWhisper, tmp_path: Path) -> None:
    with pytest.raises(HookedWhisperError, match=r"units are \[64\], expected 0 to 63"):
        build_site(model, recordings(2), HOOK, tmp_path, units=[1, 64], options=OPTIONS, progress=False)


def test_excerpts_contain_their_position_within_the_window() -> None:
    clock = TimeMap()
    for total in (40, 151, 1500, 1700, 4000):
        for position in range(0, total, 7):
            e = excerpt_round(0, position, total, clock)
            assert e.first <= position < e.stop <= total and e.stop - e.first <= 150
            assert e.first // 1500 == position // 1500 == (e.stop - 1) // 1500
    assert len({excerpt_round(0, p, 1500, clock) for p in range(1500)}) <= 30


def test_captions_and_histograms() -> None:
    alignment = Alignment("u", "s", "a b", 3.0, (Interval(0.5, 1.5, "a"), Interval(2.0, 2.5, "b")), ())
    words, phones = captions(alignment, 1.0, 2.2)
    assert [(round(w.start, 6), round(w.end, 6), w.label) for w in words] == [(0.0, 0.5, "a"), (1.0, 1.2, "b")]
    assert phones == ()
    edges = np.array([0.5, 1.0, 2.0, np.inf])
    bounds, counts = linear_histogram(np.array([9, 3, 2, 1]), edges, 2.2, 4)
    assert bounds[-1] == 2.2 and counts.tolist() == [0, 3, 1, 2]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for k in range(2):
        noise = 0.1 * np.random.default_rng(k).standard_normal(8000)
        soundfile.write(audio / f"{k}.wav", noise, 16000)
    (audio / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "out"
    code = main(
        ["features", "--hook", "encoder.blocks.0.mlp.1", "--units", "0:3", "--audio", str(audio), "--out", str(out)]
    )
    assert code == 1 and f"open {out / 'index.html'}" in capsys.readouterr().out  # one file is broken
    assert json.loads((out / "scan" / "scan.json").read_text())["failures"][0]["id"] == "broken"
    assert sorted(p.name for p in (out / "units").glob("*.html")) == ["0.html", "1.html", "2.html"]
    assert main(["features", "--audio", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_units_are_written_in_three_formats() -> None:
    assert units("2:5") == [2, 3, 4] and units("0:10:4") == [0, 4, 8] and units("7,3") == [7, 3]
    for wrong in ("", "a", "5:2", "1,1", "-1:2", "1:2:0"):
        with pytest.raises(Exception, match="needs units such as"):
            units(wrong)
