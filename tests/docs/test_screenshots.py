"""The pictures of pages: each has a command, is linked, and opens a page of real Whisper."""

from __future__ import annotations

from pathlib import Path

from docs.tools.screenshots import PICTURES, ROOT, STATIC, report
from tests.browsing import chromium, problems_of


def test_every_picture_is_made_by_the_command_and_linked() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in STATIC.glob("*.png")} == set(PICTURES)
    assert all(f"docs/static/{name}.png" in readme for name in PICTURES)


def test_the_report_is_that_of_tiny_en(tmp_path: Path) -> None:
    address = report(tmp_path)
    with chromium() as browser:
        page = browser.new_page()
        problems = problems_of(page, "file:", "data:")
        page.goto(address)
        assert "tiny.en" in page.locator("h1").inner_text() and not problems
