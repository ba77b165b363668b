"""The attention viewer in headless Chromium: choose heads, hover tokens, hear spans, light and dark, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hooked_whisper import HookedWhisper
from hooked_whisper.interventions import window_masks
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.viewer import AttentionView, view_attention
from tests.browsing import chromium, problems_of

STACKS = ("encoder", "decoder", "cross")


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> dict[str, tuple[AttentionView, Path]]:
    """One page per stack, by the demo model."""
    model, clip = HookedWhisper.from_pretrained("demo", device="cpu"), SyntheticCorpus.default().clips()[0]
    folder = tmp_path_factory.mktemp("views")
    views = {stack: view_attention(model, clip, stack=stack) for stack in STACKS}
    return {stack: (view, Path(view.save(folder / f"{stack}.html"))) for stack, view in views.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium("--autoplay-policy=no-user-gesture-required") as instance:
        yield instance


@pytest.fixture
def opened(browser, views) -> Iterator:
    """Opens the page of a stack; the test fails on any error in the console and on any request."""
    pages, problems = [], []

    def open_page(stack: str, width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        problems_of(page, "file:", "data:", into=problems)
        page.goto(views[stack][1].as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not problems


def wait_until(page, expression: str) -> None:
    """Poll from here: playwright's own polling evaluates strings, which the page forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not true after 10 s: {expression}")


def rect(page, kind: str) -> tuple[float, float]:
    """Start and end of a highlight on the spectrogram, in seconds."""
    x, width = (float(page.get_attribute(f"#sound rect.{kind}", name)) for name in ("x", "width"))
    return x, x + width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("stack", STACKS)
def test_it_fits_and_is_drawn(opened, views, stack, width, scheme) -> None:
    page = opened(stack, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#heads [role=option]").count() == len(views[stack][0].heads)
    colors = page.evaluate("[...new Set($('cells').getContext('2d').getImageData(0, 0, 40, 40).data)].length")
    assert colors > 4
    unnamed = page.eval_on_selector_all(
        "button, select, audio, [role=option], [tabindex], svg[role]",
        "all => all.filter(e => e.offsetParent && !(e.ariaLabel || e.textContent.trim() || e.labels?.length))"
        ".map(e => e.outerHTML)",
    )
    assert unnamed == []
    page.select_option("#zoom", "4")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("$('map').clientWidth > 2 * $('stage').clientWidth")


@pytest.mark.parametrize("stack", STACKS)
def test_the_script_reads_the_values_that_were_packed(opened, views, stack) -> None:
    view, page = views[stack][0], opened(stack)
    for index in (0, len(view.heads) - 1):
        read = page.evaluate(f"[...facts.heads[{index}].values].map(v => v / LEVELS * facts.heads[{index}].largest)")
        assert np.allclose(np.array(read), view.values(view.heads[index]).ravel(), rtol=1e-12, atol=0)


def test_heads_are_chosen_by_keyboard_and_click(opened, views) -> None:
    page, heads = opened("cross"), views["cross"][0].heads
    names = [str(head) for head in heads]
    first = names.index(page.inner_text("#head-name"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == names[first]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#head-name") == "cross 0.1" and heads[1].head == 1
    before = page.evaluate("$('cells').toDataURL()")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#head-name") == "cross 1.1"
    assert page.evaluate("$('cells').toDataURL()") != before
    page.keyboard.press("End")
    assert page.inner_text("#head-name") == names[-1]
    page.locator("#heads [role=option]").nth(2).click()
    assert page.inner_text("#head-name") == names[2]
    assert page.locator("#heads [aria-selected=true]").count() == 1
    page.focus("#zoom")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_hovering_a_token_lights_up_its_word_and_shows_its_attention(opened, views) -> None:
    page, view = opened("cross"), views["cross"][0]
    row = next(i for i, span in enumerate(view.rows.spans) if span)
    page.locator(f"#row-labels [data-row='{row}']").hover()
    assert rect(page, "row") == pytest.approx(view.rows.spans[row], abs=2e-3)
    label = view.rows.labels[row].strip()
    assert f"“{label}”" in page.inner_text("#readout")
    assert page.locator("#words .in-row").get_attribute("aria-label") == label
    head = next(head for head in view.heads if str(head) == page.inner_text("#head-name"))
    points = np.array([p.split(",") for p in page.get_attribute("#sound .current", "points").split()], dtype=float)
    assert points[:, 1].argmin() == view.values(head)[row].argmax()  # y runs down


def test_hovering_a_position_lights_up_both_positions(opened, views) -> None:
    page, view = opened("encoder"), views["encoder"][0]
    box = page.locator("#map").bounding_box()
    page.locator("#map").hover(position={"x": 0.25 * box["width"], "y": 0.75 * box["height"]})
    n = len(view.rows.spans)
    assert rect(page, "row") == pytest.approx(view.rows.spans[int(0.75 * n)], abs=0.03)
    assert rect(page, "column") == pytest.approx(view.columns.spans[int(0.25 * n)], abs=0.03)
    cells = view.values(view.heads[0])
    value = float(page.inner_text("#readout").split()[0])
    around = cells[int(0.75 * n) - 1 : int(0.75 * n) + 2, int(0.25 * n) - 1 : int(0.25 * n) + 2]
    assert np.isclose(around, value, rtol=0.06, atol=1e-12).any()


def test_the_cursor_moves_by_keyboard_and_enter_plays_its_word(opened, views) -> None:
    page, view = opened("cross"), views["cross"][0]
    row = next(i for i, span in enumerate(view.rows.spans) if span)
    page.focus("#map")
    for _ in range(row):
        page.keyboard.press("ArrowDown")
    assert page.get_attribute("#stage", "data-row") == str(row)
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage[data-played]")
    start, end = map(float, page.get_attribute("#stage", "data-played").split())
    word = view.rows.spans[row]
    assert start <= word[0] + 1e-3 and end >= word[1] - 1e-3 and end - start <= max(0.3, word[1] - word[0]) + 1e-2
    wait_until(page, "Number(document.querySelector('.playhead').getAttribute('x1')) > 0")
    assert start - 1e-3 <= float(page.get_attribute(".playhead", "x1")) <= end + 1e-3
    wait_until(page, "Number(document.querySelector('.playhead').getAttribute('x1')) < 0")  # it stops


def test_the_buttons_play_the_row_and_the_column(opened, views) -> None:
    page, view = opened("cross"), views["cross"][0]
    assert page.locator("#play-row").is_disabled() and page.locator("#play-column").is_disabled()
    row = next(i for i, span in enumerate(view.rows.spans) if span)
    box = page.locator("#map").bounding_box()
    page.locator("#map").hover(
        position={"x": 0.6 * box["width"], "y": (row + 0.5) / len(view.rows.spans) * box["height"]}
    )
    page.click("#play-column")
    page.wait_for_selector("#stage[data-played]")
    start, end = map(float, page.get_attribute("#stage", "data-played").split())
    assert start < 0.6 * view.seconds < end and end - start == pytest.approx(0.3, abs=0.01)
    page.click("#play-row")
    wait_until(page, f"$('stage').dataset.played !== '{start:.3f} {end:.3f}'")
    assert float(page.get_attribute("#stage", "data-played").split()[0]) == pytest.approx(
        view.rows.spans[row][0], abs=0.2
    )


def test_the_scales_show_weak_attention(opened) -> None:
    page = opened("encoder")
    dark_pixels = """(() => {
      const context = Object.assign(document.createElement("canvas"), {width: 100, height: 100})
        .getContext("2d", {willReadFrequently: true});
      context.drawImage($("cells"), 0, 0);
      return [...context.getImageData(0, 0, 100, 100).data].filter((value, i) => i % 4 === 0 && value < 200).length;
    })()"""
    linear = page.evaluate(dark_pixels)
    page.get_by_label("log").check()
    log = page.evaluate(dark_pixels)
    page.get_by_label("percentile").check()
    assert "%" in page.inner_text("#high")
    assert linear < log and linear < page.evaluate(dark_pixels)


def test_an_intervention_is_switched_on_and_off(browser, tmp_path) -> None:
    model, clip = HookedWhisper.from_pretrained("demo", device="cpu"), SyntheticCorpus.default().clips()[0]
    view = view_attention(model, clip, attn_masks=window_masks(model, 3), heads=[(2, 0), (2, 1)])
    page = browser.new_page()
    page.goto(Path(view.save(tmp_path / "masked.html")).as_uri())
    page.wait_for_selector("body[data-ready]")
    page.focus("#map")
    for _ in range(10):
        page.keyboard.press("ArrowDown")
    assert page.inner_text("#readout").startswith("0 (before: ")
    after = page.evaluate("$('cells').toDataURL()")
    page.get_by_label("before").check()
    assert page.evaluate("$('cells').toDataURL()") != after and "(after: 0)" in page.inner_text("#readout")
    page.get_by_label("after").check()
    assert page.evaluate("$('cells').toDataURL()") == after
    page.close()


def test_a_notebook_shows_it_in_a_frame_of_its_height(browser, views) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 900})
    problems = problems_of(page, "data:", "about:")
    page.set_content(f"<!doctype html><body>{views['cross'][0]._repr_html_()}</body>")
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    frame.locator("#map").focus()
    wait_until(page, "document.querySelector('iframe').style.height !== '820px'")
    height = page.locator("iframe").bounding_box()["height"]
    assert height >= frame.locator("main").bounding_box()["height"]
    page.close()
    assert not problems
