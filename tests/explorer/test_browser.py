"""The page in headless Chromium: listen, select, cut, swap, narrow, switch off, record, drop, undo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.synthetic import SyntheticCorpus
from tests.browsing import chromium, problems_of
from tests.explorer.conftest import Served

ANY = re.compile(r"\w{2}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    said = tmp_path_factory.mktemp("microphone") / "said.wav"
    audio = SyntheticCorpus.default().clips()[1].samples
    soundfile.write(said, np.concatenate([audio, np.zeros(16000, np.float32)]), 16000)
    with chromium(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={said}",
        "--autoplay-policy=no-user-gesture-required",
    ) as instance:
        yield instance


@pytest.fixture
def problems() -> list[str]:
    """What the page complained about; must be empty in the end."""
    return []


@pytest.fixture
def page(browser, served: Served, problems: list[str]) -> Iterator:
    """The page, ready; a test fails on any error in the console and on any request beyond the server."""
    tab = browser.new_page(viewport={"width": 1200, "height": 1400})
    tab.set_default_timeout(60_000)
    problems_of(tab, served.base, "data:", "blob:", into=problems)
    tab.goto(served.address)
    tab.wait_for_selector("#words button")
    expect(tab.locator("#after")).to_have_text(ANY)
    expect(tab.locator("#donors button").first).to_be_visible()
    yield tab
    tab.close()
    assert not problems


def expect(locator):
    from playwright.sync_api import expect as wait_for

    wait_for.set_options(timeout=60_000)
    return wait_for(locator)


def text(page) -> str:
    expect(page.locator("body")).not_to_have_class("busy")
    return " ".join(page.inner_text("#after").split())


def test_a_cut_word_is_struck_through_and_comes_back(page) -> None:
    before = text(page)
    assert page.locator("#words button").count() == len(before.split())
    page.locator("#words button").first.click()
    page.locator("#words button").nth(2).click(modifiers=["Shift"])
    page.click("#cut")
    expect(page.locator("#done")).to_contain_text("cut")
    assert page.locator("#after del").count() >= 1 and page.locator("#edits .cut").count() == 1
    assert "replace_encoder" in page.inner_text("#python") and "words changed" in page.inner_text("#score")
    page.click("#undo")
    expect(page.locator("#after del")).to_have_count(0)
    assert text(page) == before and page.locator("#undo").is_disabled()


def test_dragging_selects_and_swapping_puts_another_word_there(page) -> None:
    box = page.locator("#view").bounding_box()
    word = page.locator("#words button").nth(2).bounding_box()
    page.mouse.move(word["x"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(word["x"] + word["width"], box["y"] + 40, steps=4)
    page.mouse.up()
    expect(page.locator("#selected")).to_contain_text("s: “")
    donor = page.locator("#donors button").first
    label = donor.inner_text()
    donor.click()
    expect(page.locator("#done")).to_contain_text(label)
    assert ".roll(shift, 1)" in page.inner_text("#python") and page.locator("#edits .swap").count() == 1
    page.click("#clear")
    expect(page.locator("#done li")).to_have_count(0)
    expect(page.locator("#edits rect")).to_have_count(0)


def test_window_slider_narrows_encoder_attention(page) -> None:
    before = text(page)
    page.locator("#window").fill("0")
    expect(page.locator("#python")).to_contain_text("window_masks(model, 0)")
    assert page.locator("#after del, #after ins").count() > 0
    page.click("#undo")
    expect(page.locator("#after del")).to_have_count(0)
    assert text(page) == before


def test_heads_and_neurons_are_shown_and_switched_off(page) -> None:
    page.locator("#words button").first.click()
    page.get_by_role("button", name="cross 2.1").click()
    expect(page.locator("#pattern")).to_be_visible()
    page.wait_for_selector("#pattern-image")
    assert page.locator("#pattern-image").evaluate("i => i.decode().then(() => i.naturalWidth)") > 10
    page.click("#toggle-head")
    expect(page.locator("#done")).to_contain_text("head cross 2.1 off")
    expect(page.locator("#toggle-head")).to_have_text("Switch head cross 2.1 on again")
    unit = page.locator("#units button").first
    unit.click()
    assert len(page.get_attribute("#trace", "points").split()) > 20
    page.click("#toggle-unit")
    expect(page.locator("#python")).to_contain_text("ablate_neurons(model, [(")
    page.click("#toggle-head")
    expect(page.locator("#done")).not_to_contain_text("head cross")


def test_recording_is_transcribed(page) -> None:
    clips = page.locator("#clips option").count()
    page.click("#record")
    expect(page.locator("#record")).to_have_text("Stop recording")
    page.wait_for_timeout(1500)
    page.click("#record")
    expect(page.locator("#clips option")).to_have_count(clips + 1)
    expect(page.locator("#python")).to_contain_text("to_mel('recording.wav')")
    assert page.locator("#wav").is_visible()


def test_audio_uploads_are_accepted_and_others_refused(page, problems: list[str], tmp_path: Path) -> None:
    from hooked_whisper.corpora import to_textgrid

    clip = SyntheticCorpus.default().clips()[4]
    hostile = "<img src=x onerror=alert(1)>"
    soundfile.write(tmp_path / f"{hostile}.wav", clip.samples, 16000)
    (tmp_path / "it.TextGrid").write_text(to_textgrid(clip.alignment))
    page.set_input_files("#file", [tmp_path / "it.TextGrid", tmp_path / f"{hostile}.wav"])
    expect(page.locator("#phones button")).to_have_count(len(clip.alignment.phones))
    assert hostile in page.inner_text("#python") and page.locator("main img[src=x]").count() == 0
    (tmp_path / "text.wav").write_text("no sound")
    page.set_input_files("#file", [tmp_path / "text.wav"])
    expect(page.locator("#message.bad")).to_contain_text("text.wav")
    assert len(problems) == 1 and "400" in problems.pop()  # Chromium tells of it in the console too


def test_it_fits_a_phone_and_has_names_for_everything(page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    unnamed = page.eval_on_selector_all(
        "button, select, input, audio, svg[role], img",
        "all => all.filter(e => e.offsetParent && !(e.ariaLabel || e.textContent.trim() || e.alt || e.labels?.length"
        " || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)",
    )
    assert unnamed == []


def test_another_clip_begins_without_edits(page) -> None:
    page.locator("#words button").first.click()
    page.click("#cut")
    expect(page.locator("#edits .cut")).to_have_count(1)
    page.select_option("#clips", "demo-2")
    expect(page.locator("#python")).to_contain_text("clips()[2]")
    expect(page.locator("#edits rect")).to_have_count(0)
    expect(page.locator("#undo")).to_be_disabled()
    assert "off" in page.inner_text("#width")


def test_selection_plays_from_start_to_end(page) -> None:
    page.locator("#words button").nth(1).click()
    start, end = (float(page.locator("#words button").nth(1).get_attribute(f"data-{k}")) for k in ("start", "end"))
    page.click("#hear")
    page.wait_for_timeout(1500)
    state = page.locator("#player").evaluate("player => [player.currentTime, player.paused]")
    assert start < state[0] < end + 0.3 and state[1]


def test_word_swapped_into_a_cut_is_transcribed(page) -> None:
    page.locator("#words button").nth(1).click()
    page.click("#cut")
    expect(page.locator("#edits .cut")).to_have_count(1)
    page.locator("#donors button").first.click()
    expect(page.locator("#edits .swap")).to_have_count(1)
    expect(page.locator("#edits .cut")).to_have_count(0)


def test_span_can_be_selected_from_the_keyboard(page) -> None:
    page.focus("#view")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#selected")).to_contain_text("0.05 to 0.25 s")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#selected")).to_contain_text("0.05 to 0.30 s")
    assert page.locator("#cut").is_enabled()


def test_every_word_has_a_bar_with_its_change_of_log_probability(page) -> None:
    words = text(page).split()
    expect(page.locator("#bars li")).to_have_count(len(words))
    expect(page.locator("#logprob")).to_contain_text("unchanged")
    page.locator("#words button").nth(1).click()
    page.click("#cut")
    expect(page.locator("#logprob")).to_contain_text("nats, most at")
    expect(page.locator("#status")).to_contain_text("Computed in")
    numbers = [float(number.replace("−", "-")) for number in page.locator("#bars b").all_inner_texts()]
    assert len(numbers) == len(words) and min(numbers) < -0.5
    heights = page.eval_on_selector_all("#bars i", "all => all.map(bar => bar.getBoundingClientRect().height)")
    assert max(heights) == heights[numbers.index(max(numbers, key=abs))] > 20


def test_the_margin_slider_widens_every_cut(page) -> None:
    page.locator("#words button").nth(1).click()
    page.click("#cut")
    expect(page.locator("#python")).to_contain_text("margin=0.1)")
    width = float(page.get_attribute("#edits .cut", "width"))
    page.locator("#margin").fill("0.2")
    expect(page.locator("#python")).to_contain_text("margin=0.2)")
    assert float(page.get_attribute("#edits .cut", "width")) == pytest.approx(width + 0.2, abs=0.02)
    expect(page.locator("#margin-value")).to_contain_text("0.20 s")
    page.click("#undo")
    expect(page.locator("#python")).to_contain_text("margin=0.1)")


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_words_fit_into_the_time_axis(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.click("#fit")
    overflow = page.eval_on_selector_all("#words button", "all => all.map(b => b.scrollWidth - b.clientWidth)")
    assert max(overflow) <= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    strip = page.locator("#strip").bounding_box()["width"]
    page.locator("#zoom").fill("8")
    assert page.locator("#strip").bounding_box()["width"] > strip
    labels = page.eval_on_selector_all("#times span", "all => all.map(s => s.getBoundingClientRect().left)")
    assert all(b - a >= 50 for a, b in pairwise(labels))


def test_the_page_says_that_it_loads_before_anything_is_computed(browser, served: Served) -> None:
    tab = browser.new_page()
    tab.route("**/api/clips*", lambda route: None)  # never answered
    tab.goto(served.address)
    expect(tab.locator("#message")).to_contain_text("Loading the first clip")
    assert "explorer" in tab.title() and tab.locator("footer #stop").is_visible()
    tab.close()
