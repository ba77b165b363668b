"""Take the pictures in ``docs/static``, of tiny.en on the packaged speech: ``python -m docs.tools.screenshots``.

Needs playwright and a Chromium. ``--only report`` (``unit``, ``explorer`` or ``attention``) takes one. The report
is that of ``docs/findings/tiny.en.packaged.0.json``; the unit page is built from the packaged speech, which takes a few
minutes.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hooked_whisper._support.storage import write_atomic

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "docs" / "static"
MODEL, HOOK, UNITS = "tiny.en", "encoder.blocks.2.mlp.hook_post", range(40)
N_RECORDINGS = 120
WIDTH, HEIGHT = 1000, 1250
WORD = "cabins"  # of the first packaged sentence, which the explorer opens
MARGIN = 20  # pixels below the content
COLORS = 128  # of the palette: a fifth of the bytes


def report(folder: Path) -> str:
    """Write the page of findings and return its address."""
    from hooked_whisper.findings.core.serialization import load_findings
    from hooked_whisper.report import write_page

    write_page(folder / "index.html", load_findings(ROOT / "docs" / "findings" / f"{MODEL}.packaged.0.json"), ())
    return (folder / "index.html").as_uri()


def unit(folder: Path) -> str:
    """Build pages about neurons and return the address of the most selective one's."""
    import json

    from hooked_whisper import HookedWhisper
    from hooked_whisper.corpora import packaged_speech
    from hooked_whisper.report.units import build_site

    model, corpus = HookedWhisper.from_pretrained(MODEL), packaged_speech("prose")[:N_RECORDINGS]
    build_site(model, corpus, HOOK, folder, units=UNITS, described=f"{N_RECORDINGS} sentences of the packaged speech")
    units = json.loads((folder / "units.json").read_text())["units"]
    best = max((entry for entry in units if entry["words"]), key=lambda entry: entry["score"] or 0)
    return (folder / "units" / f"{best['index']}.html").as_uri()


def explorer(folder: Path) -> str:
    """Start the explorer and return its address. It stops when this program ends."""
    command = [sys.executable, "-c", "from hooked_whisper.cli.parser import main; main()"]
    server = subprocess.Popen(
        [*command, "explore", "--model", MODEL, "--no-browser"], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    import atexit

    atexit.register(server.terminate)
    assert server.stdout is not None
    for line in server.stdout:
        if "http://" in line:
            return "http://" + line.split("http://")[1].split()[0]
    raise RuntimeError("the explorer ended without printing an address")


def attention(folder: Path) -> str:
    """Write the page of cross-attention over the first packaged sentence and return its address."""
    from hooked_whisper import HookedWhisper
    from hooked_whisper.corpora import packaged_speech
    from hooked_whisper.viewer import view_attention

    model = HookedWhisper.from_pretrained(MODEL)
    view = view_attention(model, packaged_speech("prose")[0], stack="cross", selected="cross 2.4")
    view.save(folder / "attention.html")
    return (folder / "attention.html").as_uri()


PICTURES: dict[str, Callable[[Path], str]] = {
    "report": report,
    "unit": unit,
    "explorer": explorer,
    "attention": attention,
}


def cut_a_word(page: Any) -> None:
    """Cut a word in the explorer, so that the picture shows what changes."""
    page.get_by_text(WORD, exact=True).first.click(timeout=60_000)
    page.get_by_role("button", name="Cut it from").click(timeout=60_000)
    page.wait_for_timeout(20_000)


def photograph(address: str, act: Callable[[Any], None] | None = None) -> bytes:
    """Open a page and return the top of it as PNG. act: what to do on the page first."""
    from PIL import Image, ImageChops

    from tests.browsing import chromium  # finds playwright's own browser, or the system's

    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        page.wait_for_timeout(2000)
        if act is not None:
            act(page)
        png = page.screenshot()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    background = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, background).getbbox()
    if box is not None:  # without the empty part below the content
        picture = picture.crop((0, 0, picture.width, min(picture.height, box[3] + MARGIN)))
    picture = picture.quantize(COLORS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.tools.screenshots", description=__doc__)
    parser.add_argument("--only", choices=PICTURES, action="append", help="take only this picture")
    for name in parser.parse_args().only or PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            png = photograph(PICTURES[name](Path(folder)), cut_a_word if name == "explorer" else None)
        write_atomic(STATIC / f"{name}.png", png)
        print(f"docs/static/{name}.png: {len(png) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
