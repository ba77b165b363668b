"""The page of findings in headless Chromium: nothing from outside, light and dark, on a phone, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hooked_whisper.findings.core.serialization import load_findings
from hooked_whisper.report import ModelCard, write_page
from tests.browsing import chromium, problems_of
from tests.findings.worlds import utterance

SAVED = Path(__file__).resolve().parents[2] / "docs" / "data" / "findings.demo.json"
MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The demo model's findings as they were measured, with a sound for every example that names one."""
    out = tmp_path_factory.mktemp("report") / "index.html"
    findings = load_findings(SAVED)
    names = {e.utterance for f in findings for e in f.examples}
    sounds = [utterance(name, "the red cat sat") for name in sorted(names)]
    write_page(out, findings, sounds, ModelCard("demo", (("architecture", "small"),)))
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as instance:
        yield instance


def test_page_is_small(report: Path) -> None:
    assert report.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_fits_and_can_be_read(browser, report: Path, scheme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems = problems_of(page, "file:", "data:")
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND_ITS_ROW) == []
    assert contrast(page, "body") > 10
    for selector in (".row .badge", "#filter button", ".row .quiet", ".id"):
        assert min(page.eval_on_selector_all(selector, f"all => all.map({LUMINANCE})")) > 4.5, selector
    images = page.locator("main svg[role]:visible, main img:visible").evaluate_all(
        "all => all.map(i => i.getAttribute('aria-label') || i.getAttribute('alt') || '')"
    )
    assert len(images) > 20 and all(len(words) > 10 for words in images)
    assert page.locator("audio").count() > 10
    assert page.locator(".toc.wide").is_visible() == (width == 1280)
    assert page.locator(".toc.narrow").is_visible() == (width != 1280)
    page.close()
    assert not problems


def test_a_thumbnail_shows_its_figure(browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    drawn = page.locator(".row[data-finding=F2] .thumb use").evaluate("use => use.getBoundingClientRect().width")
    assert drawn > 50
    page.click(".row[data-finding=F2] .thumb")
    assert page.url.endswith("#F2-figures")
    page.close()


def shown(page) -> list[str]:
    """Ids of the rows on show; the sections and the contents must show the same."""
    ids = page.eval_on_selector_all(".row:not([hidden])", "all => all.map(e => e.dataset.finding)")
    for others in ("section[data-finding]:not([hidden])", ".toc.wide [data-finding]:not([hidden])"):
        assert page.eval_on_selector_all(others, "all => all.map(e => e.dataset.finding)") == ids
    return ids


def test_the_filter_by_keyboard(browser, report: Path) -> None:
    findings = load_findings(SAVED)
    partly = [f.id for f in findings if f.status == "partly"]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    assert shown(page) == [f.id for f in findings]
    page.focus("#filter button[data-show=partly]")
    page.keyboard.press("Space")
    assert shown(page) == partly and page.locator("#shown").inner_text().startswith(f"{len(partly)} of {len(findings)}")
    page.focus("#filter input")
    page.keyboard.type("bigrams f9")
    assert shown(page) == ["F9"]
    page.keyboard.press("Enter")
    page.evaluate("location.hash = 'F10'")  # a link to a finding that is hidden shows it
    page.wait_for_function("!document.getElementById('F10').hidden")
    assert shown(page) == [f.id for f in findings] and page.input_value("#filter input") == ""
    page.close()


def test_page_without_scripts_shows_everything(browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 800, "height": 900})
    page = context.new_page()
    page.goto(report.as_uri())
    assert not page.locator("#filter").is_visible()
    assert page.locator(".row:visible").count() == len(load_findings(SAVED))
    page.click(".toc.narrow summary")
    page.click(".toc.narrow a[href='#F2']")
    assert page.url.endswith("#F2")
    context.close()


def test_it_prints(browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert (
        not page.locator("audio:visible, #filter:visible, .toc:visible").count()
        and page.locator("#F2 svg:visible").count()
    )
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


BEYOND_ITS_ROW = """[...document.querySelectorAll(".row, .top div")].flatMap(row =>
  [...row.querySelectorAll("a, p, span, h3, dd")].filter(e => !e.closest("svg")
    && e.getBoundingClientRect().right > row.getBoundingClientRect().right + 1).map(e => e.textContent))"""
LUMINANCE = """element => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor]
    .map(color => light(numbers(color)) + 0.05);
  return Math.max(a, b) / Math.min(a, b); }"""


def contrast(page, where) -> float:
    """Of the text's color against the page's, as WCAG counts it."""
    elements = page.locator(where) if isinstance(where, str) else where
    return elements.evaluate(LUMINANCE)
