"""The attention viewer beside the page of findings."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.findings import Finding
from hooked_whisper.report import render_page, write_attention_pages
from hooked_whisper.synthetic import SyntheticCorpus
from tests.report.test_page import finding


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


def findings(*ids: str) -> list[Finding]:
    return [replace(finding(), id=id) for id in ids]


def test_findings_about_heads_link_the_viewer(model, tmp_path) -> None:
    clips = SyntheticCorpus.default().clips()[:1]
    pages = write_attention_pages(tmp_path, findings("F2", "F3", "F4", "L3"), model, clips)
    assert pages == {
        "F2": "attention-encoder.html",
        "F3": "attention-encoder.html",
        "L3": "attention-cross.html",
    }
    assert {path.name for path in tmp_path.iterdir()} == set(pages.values())
    assert '"encoder 3.2"' in (tmp_path / "attention-encoder.html").read_text()
    page = render_page(findings("F2", "F4", "L3"), clips, attention=pages)
    assert page.count('href="attention-') == 2
    assert 'href="attention-' not in render_page(findings("F2"), clips)


def test_without_a_text_there_is_no_page(model, tmp_path) -> None:
    silent = Clip(Recording("a", ""), np.zeros(16000, np.float32))
    assert write_attention_pages(tmp_path, findings("F2"), model, [silent]) == {}
    assert write_attention_pages(tmp_path, findings("F2"), model, []) == {}


def test_a_clip_that_cannot_be_shown_is_logged(model, tmp_path, caplog) -> None:
    long = Clip(Recording("long", "", text="red cat"), np.zeros(31 * 16000, np.float32))
    with caplog.at_level(logging.WARNING):
        assert write_attention_pages(tmp_path, findings("F2"), model, [long]) == {}
    assert "long" in caplog.text and not list(tmp_path.iterdir())
