"""Tutorials: the notebook is its .py, was run to its end, opens with a question, shows and plays something, ends with
exercises, and is small. `make test` runs every notebook again (nbmake)."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
MOST_BYTES = 1_500_000


def both(script: Path) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    return jupytext.read(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def test_there_are_nine() -> None:
    assert [script.name[:2] for script in SCRIPTS] == [f"{i:02}" for i in range(1, 10)]
    assert {n.stem for n in FOLDER.glob("*.ipynb")} == {s.stem for s in SCRIPTS}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({script.stem}.ipynb)" in readme for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_the_notebook_is_the_script_and_was_run(script: Path) -> None:
    source, notebook = both(script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in source.cells], (
        f"run: make tutorials (or python -m docs.tools.notebooks tutorials/{script.name})"
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    told = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "Warning" not in told and "/home/" not in told and "/work" not in told
    shown = [kind for o in outputs if "data" in o for kind in o["data"]]
    assert "image/png" in shown
    assert any("<audio" in o["data"].get("text/html", "") for o in outputs if "data" in o)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_it_opens_with_a_question_and_ends_with_exercises(script: Path) -> None:
    cells = jupytext.read(script).cells
    assert re.match(rf"# {int(script.name[:2])}\. ", cells[0].source) and "?" in cells[0].source
    assert "## Exercises" in cells[-1].source
    last = cells[-1].source.split("## Exercises")[1]
    assert len(re.findall(r"^\d\. ", last, re.MULTILINE)) >= 3
    text = script.read_text(encoding="utf-8")
    assert re.search(r'^MODEL = "demo"  # or "tiny"', text, re.MULTILINE) and "MODEL" in last
    assert len(re.findall(r"\bMODEL\b", text)) >= 3  # one line away from real Whisper
    assert "control" in text or "random" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_it_is_small(script: Path) -> None:
    assert script.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    assert not re.search(r"from hooked_whisper[\w.]* import _|\._[a-z]", script.read_text(encoding="utf-8"))
