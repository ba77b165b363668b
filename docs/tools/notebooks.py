"""``python -m docs.tools.notebooks [tutorials/01*.py ...]``: run tutorials and write the notebooks beside them."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from hooked_whisper.storage import write_atomic

FOLDER = Path(__file__).resolve().parents[2] / "tutorials"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="default: all tutorials")
    for path in parser.parse_args().files or sorted(FOLDER.glob("[0-9]*.py")):
        started = time.monotonic()
        notebook = executed(path)
        write_atomic(path.with_suffix(".ipynb"), nbformat.writes(notebook).encode() + b"\n")
        size = path.with_suffix(".ipynb").stat().st_size / 1e6
        print(f"{path.stem:45} {time.monotonic() - started:4.0f} s, {size:.1f} MB", flush=True)


def executed(path: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook with its outputs, without times and ids that differ from run to run."""
    notebook = jupytext.read(path)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
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
