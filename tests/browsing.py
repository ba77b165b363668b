"""A Chromium to look at pages with: playwright's own, or the system's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(*args: str) -> Iterator[Any]:
    """A running browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright, and a Chromium")
    with playwright.sync_playwright() as p:
        packaged = p.chromium.executable_path
        path = packaged if Path(packaged).exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None:
            pytest.skip("no browser: playwright install chromium, or install Debian's chromium")
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--mute-audio", *args])
        yield browser
        browser.close()


def problems_of(page: Any, *allowed: str, into: list[str] | None = None) -> list[str]:
    """Filled while the page lives: errors of the console, failed requests, requests beyond ``allowed`` addresses."""
    problems: list[str] = [] if into is None else into
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on(
        "requestfailed", lambda r: problems.append(f"{r.url}: {r.failure}") if "ERR_ABORTED" not in r.failure else None
    )
    page.on("request", lambda r: None if r.url.startswith(allowed) else problems.append(r.url))
    page.on("dialog", lambda d: (problems.append("a dialog: " + d.message), d.dismiss()))
    return problems
