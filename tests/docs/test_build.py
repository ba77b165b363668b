"""What the documentation's own tools do: docstrings to markup, the map, generated pages, dead links."""

from __future__ import annotations

import json
from pathlib import Path

import docutils.core
import docutils.utils
import pytest

from docs.tools import pages
from docs.tools.build import dead_links
from docs.tools.docstrings import as_rst, escaped, signature
from docs.tools.hook_map import hook_map, points
from docs.tools.pages import MODULES, RUNS, error_classes, error_page, finding_page, findings_index, read_results
from hooked_whisper import HookedWhisper
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.report.figures import Picture

ROOT = Path(__file__).resolve().parents[2]
DOCSTRING = """What it does, with **options and a |bar| and name_.

source: ``"demo"`` (packaged), or
    a file; *really*.
n, m: two numbers.

    - a list
    - of things that
      go on

Args:
    x: one.
    **y: another.

Raises:
    PatchError: never.
"""


def test_docstring_sections_become_lists() -> None:
    text = "\n".join(as_rst(DOCSTRING.splitlines()))
    assert '- ``source``: ``"demo"`` (packaged), or a file; *really*.' in text
    assert "- ``n``, ``m``: two numbers." in text and "- ``**y``: another." in text
    assert "**Raises**" in text and "- of things that go on" in text
    messages: list[str] = []
    settings = {
        "warning_stream": type("Stream", (), {"write": lambda self, s: messages.append(s)})(),
        "report_level": 1,
    }
    docutils.core.publish_doctree(text, settings_overrides=settings)
    assert not messages
    assert escaped("a*b ``c*d`` e_") == r"a\*b ``c*d`` e\_"


def test_signatures_equal_the_source() -> None:
    said = (signature(HookedWhisper.logits) or "").replace("'", '"')  # the tests' own checks of shapes change quotes
    assert said == '(tokens: Int[Tensor, "batch token"], encoder_out: Float[Tensor, "clip position d_model"])'


def test_hook_map_has_every_point_of_a_block_once() -> None:
    model = HookedWhisper.from_pretrained("demo")
    listed = [p.name for stack in ("encoder", "decoder") for p in points(model, stack)]
    wanted = [n for n in model.hook_names() if ".blocks." not in n or ".blocks.0." in n]
    assert sorted(listed) == sorted(wanted)
    svg = hook_map(model)
    assert svg.count("<text") == 2 * len(listed) + 4 and "NaN" not in svg


def test_every_error_has_a_page_with_cause_fix_and_example() -> None:
    examples = ROOT / "docs" / "errors"
    names = {cls.__name__ for cls in error_classes()}
    assert {path.stem for path in examples.glob("*.md")} == names and "TrainingError" in names
    for cls in error_classes():
        page = error_page(cls, examples / f"{cls.__name__}.md")
        assert "```python" in page
        assert cls.__name__ == "HookedWhisperError" or ("**Cause.**" in page and "**Fix.**" in page)


def test_every_finding_has_a_page_with_its_result(tmp_path, monkeypatch) -> None:
    results = read_results(ROOT / "docs")
    with_figures = finding_page("F2", {heading: run.get("F2") for heading, run in results.items()}, tmp_path)
    assert with_figures.count("<svg") == sum(len(run["F2"].draw()) for run in results.values())
    # the figures of all others are rendered by `make docs`
    monkeypatch.setattr(pages, "picture", lambda figure, key: Picture("<svg/>", "", key, "", 1.0, 1.0, ""))
    for run in results.values():
        assert run and set(run) <= set(REGISTRY), (
            "run: python -m docs.tools.replicate, and make demo MODEL=demo for docs/data/findings.demo.json"
        )
    for id in REGISTRY:
        page = finding_page(id, {heading: run.get(id) for heading, run in results.items()}, ROOT / "docs" / "findings")
        assert f"--only {id}" in page
        assert all(run[id].status in page for run in results.values() if id in run)
        assert "## On tiny.en" not in finding_page(id, {}, tmp_path)
    assert all(f"({id}.md)" in findings_index(results) for id in REGISTRY)
    for name in RUNS:
        saved = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert "/" + "tmp" not in json.dumps({k: v for k, v in saved.items() if k != "findings"})


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    import importlib
    import inspect

    imported = importlib.import_module(module)
    silent = [
        name
        for name in getattr(imported, "__all__", ())
        if (inspect.isclass(x := getattr(imported, name)) or inspect.isfunction(x)) and not inspect.getdoc(x)
    ]
    assert not silent


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#x">1</a><a href="b.html#y">2</a><img src="no.png"><p id="z">')
    (tmp_path / "b.html").write_text('<a id="x" href="a.html#z">3</a><a href="https://example.org">4</a>')
    assert sorted(dead_links(tmp_path)) == ["a.html: b.html#y", "a.html: no.png"]
