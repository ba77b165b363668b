"""The pages of F6: an overview, and a site per SAE and block, with sound."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.findings import Context
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.serialization import load_findings, save_findings
from hooked_whisper.report import render_page, write_linked_pages
from sae_lens_audio.findings import phone_pages
from sae_lens_audio.findings.phone_features import PhoneFeatures
from tests.findings.phone_worlds import context_with_phones
from tests.sae.quick_phone_features import make_quick

_LINK = re.compile(r'(?:href|src|data-sound)="([^"#:]+)"')


@pytest.fixture(scope="module")
def run() -> Iterator[tuple[Finding, Context]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_quick(monkeypatch)
        context = context_with_phones(24, truth=None)
        yield PhoneFeatures().run(context), context


def test_every_phone_has_its_feature_with_sound(run: tuple[Finding, Context], tmp_path: Path) -> None:
    finding, context = run
    pages = write_linked_pages(tmp_path, [finding], context)
    (link,) = pages["F6"]
    assert f'<a href="{link.path}">' in render_page([finding], pages=pages)
    overview = tmp_path / link.path
    for page in [overview, *tmp_path.rglob("units/*.html"), *tmp_path.glob("*/*/index.html")]:
        for target in _LINK.findall(page.read_text()):
            assert target == "../index.html" or (page.parent / target).exists(), (page, target)
    text = overview.read_text()
    records = finding.extra["features"]["encoder.blocks.1.hook_resid_post"]["TopK"]
    assert len(records["phones"]) == 14
    for record in records["phones"]:
        assert f"encoder.blocks.1-topk/units/{record['feature']}.html" in text
        assert f"precision {record['precision']:.2f}<br>recall {record['recall']:.2f}<br>" in text
    # the finding's own table has the same features
    titles = {table.title: table for table in finding.tables}
    rows = titles["Each phone's best feature of TopK, block 1"].to_rows()
    assert {(row["phone"], row["feature"].split()[0]) for row in rows} == {
        (record["sound"], str(record["feature"])) for record in records["phones"]
    }
    site = tmp_path / phone_pages.FOLDER / "encoder.blocks.1-topk"
    best = max(records["phones"], key=lambda record: record["f1"])
    page = (site / f"units/{best['feature']}.html").read_text()
    assert f"detects /{best['sound']}/ best: precision {best['precision']:.2f}, recall {best['recall']:.2f}" in page
    labels = [unit["description"] for unit in json.loads((site / "units.json").read_text())["units"]]
    assert all("precision" in label and "recall" in label for label in labels if label not in ("", "—"))


def test_the_amplified_moment_is_at_the_peak(run: tuple[Finding, Context], tmp_path: Path) -> None:
    finding, context = run
    write_linked_pages(tmp_path, [finding], context)
    site = tmp_path / phone_pages.FOLDER / "encoder.blocks.1-tied-l1"
    for file in list((site / "units").glob("*.json"))[:4]:
        unit = json.loads(file.read_text())
        for example in unit["activations"]:
            values = np.array(example["values"])
            assert example["qualifying_token_index"] == values.argmax()
    moments = [path for path in (site / "clips").glob("*.mp3") if re.search(r"-\d+\.mp3$", path.name)]
    loud = 0
    for path in moments[:10]:
        samples, rate = soundfile.read(path)
        middle = len(samples) // 2
        near = np.abs(samples[middle - rate // 16 : middle + rate // 16]).max()
        loud += near == np.abs(samples).max()
    assert loud >= 8  # the others are at the edge of a clip


def test_pages_of_a_saved_finding(run: tuple[Finding, Context], tmp_path: Path) -> None:
    finding, context = run
    save_findings(tmp_path / "findings.json", [finding], model="small")
    (again,) = load_findings(tmp_path / "findings.json")
    # its SAEs would have to be trained again
    later = replace(context, _cache={})
    assert write_linked_pages(tmp_path, [again], later) == {}
    assert "F6" in write_linked_pages(tmp_path, [again], context)
    # the pages are there from the run that made the finding
    assert "F6" in write_linked_pages(tmp_path, [again], later)


def test_speakers_take_turns() -> None:
    clips = context_with_phones(9).utterances
    order = phone_pages.by_turns(sorted(clips, key=lambda clip: clip.speaker))
    assert [clip.speaker for clip in order] == ["a", "b", "c"] * 3
