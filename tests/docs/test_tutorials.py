"""Tutorials: the notebook is its .py, was run to its end on tiny.en, opens with a question, shows and plays something,
ends with exercises, and is small. tests/tutorials runs every script again, on fewer clips."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import torch

from docs.tools.notebooks import executed
from hooked_whisper import HookedWhisper
from hooked_whisper.errors import MissingWeightsError

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
MOST_BYTES = 500_000


def both(script: Path) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    return jupytext.read(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def test_there_are_ten_tutorials() -> None:
    assert [script.name[:2] for script in SCRIPTS] == [f"{i:02}" for i in range(1, 11)]
    assert {n.stem for n in FOLDER.glob("*.ipynb")} == {s.stem for s in SCRIPTS}
    assert {t.stem for t in (FOLDER.parent / "tests/tutorials").glob("*.toml")} == {s.stem for s in SCRIPTS}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"({script.stem}.ipynb)" in readme for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_notebook_matches_its_script_and_has_outputs(script: Path) -> None:
    source, notebook = both(script)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in source.cells], (
        f"run: make tutorials (or python -m docs.tools.notebooks tutorials/{script.name})"
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "Warning" not in printed and "/home/" not in printed and "/work" not in printed
    assert "demo model" not in printed.split("\n")[0]  # was run on tiny.en
    shown = [kind for o in outputs if "data" in o for kind in o["data"]]
    assert "image/png" in shown
    assert any("<audio" in o["data"].get("text/html", "") for o in outputs if "data" in o)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_tutorial_opens_with_a_question_and_ends_with_exercises(script: Path) -> None:
    cells = jupytext.read(script).cells
    assert re.match(rf"# {int(script.name[:2])}\. ", cells[0].source) and "?" in cells[0].source
    assert "## Exercises" in cells[-1].source
    last = cells[-1].source.split("## Exercises")[1]
    assert len(re.findall(r"^\d\. ", last, re.MULTILINE)) >= 3
    text = script.read_text(encoding="utf-8")
    assert re.search(r'^MODEL = "tiny.en"  # or "base"', text, re.MULTILINE) and "MODEL" in last
    assert "control" in text or "random" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_tutorial_is_small(script: Path) -> None:
    assert script.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    assert not re.search(r"from hooked_whisper[\w.]* import _|\._[a-z]", script.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_tutorial_falls_back_to_the_demo_model_with_a_message(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = HookedWhisper.from_pretrained

    def only_demo(source: str, **options: Any) -> HookedWhisper:
        if source != "demo":
            raise MissingWeightsError(f"no weights of {source!r} on this machine")
        return load(source, **options)

    monkeypatch.setattr(HookedWhisper, "from_pretrained", only_demo)
    cell = next(cell for cell in jupytext.read(script).cells if "MODEL = " in cell.source)
    statements = cell.source[: re.search(r"^on_demo = .*$", cell.source, re.MULTILINE).end()]  # type: ignore[union-attr]
    names: dict[str, Any] = {}
    with torch.set_grad_enabled(True):  # restores what a tutorial sets
        exec(compile(statements, script.name, "exec"), names)
    assert names["on_demo"] is True and names["model"].cfg.name == "demo"
    assert capsys.readouterr().out.startswith("no weights of tiny.en here")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.stem)
def test_tutorial_runs_on_the_demo_model(script: Path) -> None:
    notebook = executed(script, timeout=90, model="demo")
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
