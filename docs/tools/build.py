"""Build the documentation in ``out/docs``: ``python -m docs.tools.build``. Warnings and dead links are errors."""

from __future__ import annotations

import argparse
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docs.tools.pages import write_pages

ROOT = Path(__file__).resolve().parents[2]
_EXAMPLES = "errors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "docs", help="default: out/docs")
    out = parser.parse_args().out.resolve()
    source, html = out / "source", out / "html"
    gather(source)
    from sphinx.cmd.build import build_main  # only the documentation's extra has it

    failed = build_main(["-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "doctrees"), str(source), str(html)])
    if failed:
        return failed
    dead = dead_links(html)
    for line in dead:
        print(f"dead link: {line}", file=sys.stderr)
    print(f"open {html / 'index.html'}")
    return 1 if dead else 0


def gather(source: Path) -> None:
    """Collect written pages, notebooks and generated pages in one folder."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("tools", "__pycache__", "*.json", _EXAMPLES))
    shutil.copytree(ROOT / "benchmarks" / "figures", source / "figures")
    shutil.copy(ROOT / "benchmarks" / "README.md", source / "benchmarks.md")
    for measured in (ROOT / "benchmarks").glob("*.json"):
        shutil.copy(measured, source)
    (source / "tutorials").mkdir()
    notebooks = sorted((ROOT / "tutorials").glob("*.ipynb"))
    for notebook in notebooks:
        shutil.copy(notebook, source / "tutorials")
    listed = "\n".join(notebook.stem for notebook in notebooks)
    text = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8").replace("../docs/", "../")
    toc = f"\n```{{toctree}}\n:maxdepth: 1\n:hidden:\n\n{listed}\n```\n"
    (source / "tutorials" / "index.md").write_text(text + toc, encoding="utf-8")
    write_pages(source, ROOT / "docs" / _EXAMPLES, ROOT / "docs")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[key] or "" for key in ("id", "name") if key in values}
        self.links += [values[key] or "" for key in ("href", "src") if key in values]


def dead_links(html: Path) -> list[str]:
    """Return dead links and images within the built pages. Links to other sites are not checked."""
    pages = {}
    for path in html.rglob("*.html"):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.resolve()] = page
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = target in pages
            wrong = not target.exists() or (
                known and parts.fragment and unquote(parts.fragment) not in pages[target].anchors
            )
            if wrong and path.name not in ("genindex.html", "search.html", "py-modindex.html"):
                dead.append(f"{path.relative_to(html)}: {link}")
    return dead


if __name__ == "__main__":
    sys.exit(main())
