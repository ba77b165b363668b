"""Run tutorials and write their notebooks: ``python -m docs.tools.notebooks [tutorials/01*.py ...]``.

With ``--model NAME``, run them on this model and write nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from hooked_whisper._support.storage import write_atomic

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"
MODEL_LINE = re.compile(r'^MODEL = "[^"]*"', re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="default: all tutorials")
    parser.add_argument("--model", help="run with MODEL set to this name; the notebooks stay as they are")
    parsed = parser.parse_args()
    for path in parsed.files or sorted(FOLDER.glob("[0-9]*.py")):
        started = time.monotonic()
        notebook = executed(path, model=parsed.model)
        seconds = time.monotonic() - started
        if parsed.model is None:
            write_atomic(path.with_suffix(".ipynb"), nbformat.writes(notebook).encode() + b"\n")
        size = len(nbformat.writes(notebook).encode()) / 1e6
        print(f"{path.stem:45} {seconds:4.0f} s, {size:.2f} MB", flush=True)


def executed(path: Path, timeout: int = 600, model: str | None = None) -> nbformat.NotebookNode:
    """Return the notebook with its outputs, and without times and ids that differ between runs.

    Args:
        timeout: seconds for each cell.
        model: value of ``MODEL``; default: the value in the script.
    """
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
        if model is not None and cell.cell_type == "code":
            cell.source = MODEL_LINE.sub(f'MODEL = "{model}"', cell.source)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    NotebookClient(
        notebook, timeout=timeout, record_timing=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


if __name__ == "__main__":
    main()
