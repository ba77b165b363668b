"""The site in headless Chromium, from the file system: play, seek, loop, sort and search without errors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch

from hooked_whisper.audio import mel_filters
from hooked_whisper.report.units import SiteWriter, Unit, UnitStats
from tests.browsing import chromium, problems_of
from tests.report.units_worlds import HOSTILE, clip, examples, info, unit

PLAYED = """a => new Promise(done => { const from = a.currentTime, until = performance.now() + 5000;
  const look = () => !a.paused && a.currentTime > from + 0.05 ? done(true)
    : performance.now() > until ? done(false) : setTimeout(look, 30);
  look(); })"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("site")
    n = 250
    writer = SiteWriter(out, info(tuple(range(n))))
    ids = [f"c{i}" for i in range(25)]
    for i, id in enumerate(ids):
        writer.add_clip(clip(id, i % 5))
    for i in range(n):
        if i < 2:
            writer.add_unit(unit(i, examples(ids), HOSTILE if i else "/s/", 0.5))
        else:
            score = None if i == 9 else (i * 37 % 251) / 251
            writer.add_unit(Unit(i, UnitStats(0.1, 0, 1, i, 0), f"/{'ptk'[i % 3]}/ {i}", score=score))
    writer.finish()
    return out.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium("--autoplay-policy=user-gesture-required") as tab:
        yield tab


@pytest.fixture
def page(browser) -> Iterator:
    """A page whose test fails on console errors and on requests other than to the disk."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    problems = problems_of(tab, "file:", "data:", "blob:")
    yield tab
    tab.close()
    assert not problems


def card(page, number: int = 0):
    page.set_default_timeout(10_000)
    unit_card = page.locator(".card").nth(number)
    unit_card.scroll_into_view_if_needed()  # cards outside the viewport are not drawn
    unit_card.locator(".trace").first.wait_for(state="attached")
    return unit_card


def test_play_moves_the_playhead_and_pauses(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page)
    play, audio = unit_card.locator(".play"), unit_card.locator(".context")
    play.click()
    assert audio.evaluate(PLAYED)
    assert play.get_attribute("aria-pressed") == "true" and "❚❚" in play.inner_text()
    assert unit_card.locator(".playhead").evaluate("p => !p.hidden && parseFloat(p.style.left) > 0")
    assert float(unit_card.locator(".seek").input_value()) > 0
    play.click()
    assert audio.evaluate("a => a.paused") and play.get_attribute("aria-pressed") == "false"


def test_a_click_on_the_spectrogram_plays_from_there_and_stops_others(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    first, second = card(page, 0), card(page, 1)
    first.locator(".play").click()
    assert first.locator(".context").evaluate(PLAYED)
    box = second.locator(".mel").bounding_box()
    second.locator(".mel").click(position={"x": box["width"] / 2, "y": 40})
    now = second.locator(".context").evaluate("a => a.currentTime")
    assert 1.45 <= now <= 2.5
    assert second.locator(".context").evaluate(PLAYED)
    assert first.locator(".context").evaluate("a => a.paused")


def test_the_amplified_moment_plays(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page, 2)
    unit_card.locator(".amplified").click()
    moment = unit_card.locator(".peak-sound")
    assert moment.evaluate(PLAYED)
    assert 0.95 <= moment.evaluate("a => a.duration") <= 1.1
    page.wait_for_function("a => a.ended", arg=moment.element_handle(), timeout=4000)
    assert unit_card.locator(".amplified").get_attribute("aria-pressed") == "false"


def test_the_loop_stays_on_the_active_moment(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page, 3)
    start, end = page.evaluate("JSON.parse(document.getElementById('data').textContent).examples[3].loop")
    assert 0.24 <= end - start < 0.5
    unit_card.locator(".loop").click()
    times = unit_card.locator(".context").evaluate(
        """a => new Promise(r => { const out = []; const until = performance.now() + 1500;
        const look = () => { out.push(a.currentTime);
          performance.now() < until ? requestAnimationFrame(look) : r(out); };
        setTimeout(look, 200); })"""
    )
    assert min(times) >= start - 0.06 and max(times) <= end + 0.25
    assert sum(b < a for a, b in itertools.pairwise(times)) >= 2  # went back
    unit_card.locator(".mel").click(position={"x": 5, "y": 40})  # outside the loop: leaves it
    assert unit_card.locator(".loop").get_attribute("aria-pressed") == "false"


def test_spectrogram_trace_and_captions_share_one_axis(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page, 5)
    peak = 0.02 * (20 + 11 * 5)
    view = unit_card.locator(".view").bounding_box()

    def at(seconds: float) -> float:
        return view["x"] + seconds / 3 * view["width"]

    dashed = unit_card.locator(".peak").bounding_box()
    assert dashed["x"] == pytest.approx(at(peak), abs=1.5)
    spans = unit_card.locator(".phones span")
    assert spans.count() == 10
    assert spans.nth(4).bounding_box()["x"] == pytest.approx(at(4 * 0.3), abs=1.5)
    assert unit_card.locator(".phones .here").inner_text() == "t"
    assert unit_card.locator(".words .here").inner_text() == "teen" == unit_card.locator("mark").inner_text()
    image = unit_card.locator(".mel img").bounding_box()
    assert image["x"] == pytest.approx(at(-0.005), abs=1) and image["width"] == pytest.approx(view["width"], abs=2)
    trace = unit_card.locator("path.trace").evaluate(
        """p => { let best = null; const length = p.getTotalLength();
        for (let i = 0; i <= 2000; i++) { const q = p.getPointAtLength(length * i / 2000);
        if (!best || q.y < best.y) best = q; } return best.x; }"""
    )
    assert trace / 100 * 3 == pytest.approx(peak, abs=0.02)
    assert "in /t/ of teen" in unit_card.locator(".mel svg").get_attribute("aria-label")


def test_pointing_shows_the_value(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page, 0)
    box = unit_card.locator(".mel").bounding_box()
    unit_card.locator(".mel").hover(position={"x": box["width"] * 0.4 / 3, "y": 40})
    assert unit_card.locator(".clock").inner_text() == "0.40 s: 5.2"
    page.locator("h1").hover()
    assert unit_card.locator(".clock").inner_text() == "0.00 / 3.00 s"


def test_every_card_is_drawn_for_printing(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    card(page)
    assert page.locator(".trace").count() < 25
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("document.querySelectorAll('path.trace').length === 25")


def test_keys(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page)
    unit_card.locator(".play").focus()
    page.keyboard.press("Enter")
    assert unit_card.locator(".context").evaluate(PLAYED)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "loop"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    unit_card.locator(".seek").focus()
    before = float(unit_card.locator(".seek").input_value())
    page.keyboard.press("End")
    assert float(unit_card.locator(".seek").input_value()) > before and page.url.endswith("/0.html")
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/units/1.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/units/0.html")
    page.keyboard.press("/")
    page.wait_for_url("**/index.html#search")
    assert page.evaluate("document.activeElement.id") == "search"


UNIT, PICTURE, LABEL, WORDS, SCORE = 1, 2, 3, 4, 5  # columns of the index


def column(page, n: int) -> list[str]:
    return page.locator(f"#rows tr td:nth-child({n})").all_inner_texts()


def test_sort(page, site) -> None:
    page.goto(f"{site}/index.html")
    score = page.locator("th", has_text="selectivity")
    assert len(column(page, UNIT)) == 100  # from the start sorted by selectivity
    scores = [float(x) for x in column(page, SCORE)]
    assert scores == sorted(scores, reverse=True) and score.get_attribute("aria-sort") == "descending"
    assert scores[0] > 0.99
    score.locator("button").click()
    scores = [float(x) for x in column(page, SCORE)]
    assert scores == sorted(scores) and score.get_attribute("aria-sort") == "ascending" and scores[0] < 0.01
    page.locator("#on").click()
    page.locator("#on").click()
    assert column(page, SCORE)[-1] == "–" and column(page, UNIT)[-1] == "9"  # without a score: last
    page.locator("th", has_text="max").locator("button").focus()
    page.keyboard.press("Enter")
    assert column(page, UNIT)[0] == "249" and page.locator("th[aria-sort]").count() == 1


def test_search(page, site) -> None:
    page.goto(f"{site}/index.html")
    page.keyboard.press("/")
    page.keyboard.type("/K/")
    assert column(page, LABEL) and all(x.startswith("/k/") for x in column(page, LABEL))
    assert page.locator("#found").inner_text() == "83 of 250 neurons"
    page.locator("#search").fill("nothing like it")
    assert column(page, UNIT) == [] and page.locator("#found").inner_text() == "0 of 250 neurons"
    page.locator("#search").fill("17")
    assert column(page, UNIT)[0] == "17"
    page.locator("#rows a").first.click()
    page.wait_for_url("**/units/17.html")


def test_the_index_shows_and_plays_each_unit(page, site) -> None:
    page.goto(f"{site}/index.html")
    page.locator("#search").fill("teen")  # a word at the peak of a strongest example
    assert sorted(column(page, UNIT)) == ["0", "1"] and "teen" in column(page, WORDS)[0].split(", ")
    row = page.locator("#rows tr").first
    assert row.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") == 41
    button, sound = row.locator(".media button"), page.locator("#sound")
    assert "strongest moment of neuron" in button.get_attribute("aria-label")
    button.focus()
    page.keyboard.press("Enter")
    assert sound.evaluate(PLAYED) and button.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Enter")
    assert sound.evaluate("a => a.paused") and button.get_attribute("aria-pressed") == "false"
    assert "0 is chance" in page.locator(".legend-box").inner_text()


def test_similar_units_are_links_with_their_labels(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    similar = page.locator("figure", has_text="Similar neurons")
    assert similar.locator("tbody tr").all_inner_texts()[0].split("\t")[0] == "1"
    assert "<img src=x" in similar.locator("td.label").first.inner_text()
    similar.get_by_role("link", name="2", exact=True).click()
    page.wait_for_url("**/units/2.html")


def test_the_frequency_axis_is_that_of_the_mel_bands(page, site) -> None:
    page.goto(f"{site}/units/0.html")
    unit_card = card(page)
    mel = unit_card.locator(".mel").bounding_box()
    tick = unit_card.locator(".hertz span", has_text="1").last.bounding_box()
    height = (mel["y"] + mel["height"] - tick["y"] - tick["height"] / 2) / mel["height"]
    filters = mel_filters(80, torch.float32, torch.device("cpu"))
    hertz = torch.linspace(0, 8000, filters.shape[1])
    centers = (filters @ hertz) / filters.sum(1)
    assert height == pytest.approx((int((centers < 1000).sum())) / 80, abs=0.02)


def test_hostile_labels_are_text(page, site) -> None:
    page.goto(f"{site}/index.html")
    page.locator("#search").fill("onerror")
    assert ["<img src=x" in label for label in column(page, LABEL)] == [True]
    page.goto(f"{site}/units/1.html")
    card(page)
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").inner_text()
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("name", ["index.html", "units/0.html"])
def test_light_dark_and_a_phone(browser, site, name, width) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        tab = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
        tab.goto(f"{site}/{name}")
        if name == "index.html":
            tab.locator("#rows tr").first.wait_for()
        else:
            card(tab)
        grounds[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator(".legend-box").get_attribute("open") == (None if width == 360 else "")
        tab.close()
    assert grounds["light"] != grounds["dark"]


def test_a_missing_clip_is_reported(browser, tmp_path) -> None:
    writer = SiteWriter(tmp_path, dataclasses.replace(info((0,))))
    for id in ("a", "b"):
        writer.add_clip(clip(id, ord(id)))
    writer.add_unit(unit(0, examples(["a", "b"])))
    writer.finish()
    next((tmp_path / "clips").glob("a-*.js")).unlink()
    tab = browser.new_page()
    tab.goto(f"{tmp_path.as_uri()}/units/0.html")
    tab.locator(".missing").wait_for()
    assert "cannot be shown" in tab.locator(".missing").inner_text()
    assert tab.locator("path.trace").count() == 1
    tab.close()
