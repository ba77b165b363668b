"""The page of findings in headless Chromium: nothing from outside, light and dark, on a phone, printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooked_whisper.findings.serialise import from_dict
from hooked_whisper.report import ModelCard, write_page
from tests.browsing import chromium, problems_of
from tests.findings.worlds import utterance

SAVED = Path(__file__).resolve().parents[2] / "docs" / "data" / "findings.demo.json"
MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The demo model's findings as they were measured, with a sound for every example that names one."""
    out = tmp_path_factory.mktemp("report") / "index.html"
    findings = [from_dict(f) for f in json.loads(SAVED.read_text(encoding="utf-8"))["findings"]]
    names = {e.utterance for f in findings for e in f.examples}
    sounds = [utterance(name, "the red cat sat") for name in sorted(names)]
    write_page(out, findings, sounds, ModelCard("demo", (("architecture", "small"),)))
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


def test_it_is_small(report: Path) -> None:
    assert report.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_can_be_read(browser, report: Path, scheme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = problems_of(page, "file:", "data:")
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(page, "body") > 10
    for badge in page.locator("#summary tbody .badge").all():
        assert contrast(page, badge) > 4.5
    for cell in page.locator("#summary tbody td[data-label=Published]").all()[:5]:
        assert cell.bounding_box()["width"] > 130  # no sliver
    for image in page.locator("main svg:visible, main img:visible").all():
        assert len(image.get_attribute("aria-label") or image.get_attribute("alt")) > 10
    assert page.locator("audio").count() > 10
    page.click("#summary a[href='#real']")
    assert page.locator("#real pre").inner_text().startswith("hooked-whisper reproduce --model tiny.en --corpus")
    page.close()
    assert not problems


def test_it_prints(browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert not page.locator("audio:visible").count() and page.locator("#F2 svg:visible").count()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


LUMINANCE = """element => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor]
    .map(colour => light(numbers(colour)) + 0.05);
  return Math.max(a, b) / Math.min(a, b); }"""


def contrast(page, where) -> float:
    """Of the text's colour against the page's, as WCAG counts it."""
    found = page.locator(where) if isinstance(where, str) else where
    return found.evaluate(LUMINANCE)
