"""Run a tutorial's cells in this process: imports and released weights are loaded once for all tutorials."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jupytext
import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def run_script(script: Path, smaller: Mapping[str, str]) -> None:
    """Run all cells in one namespace, and show their last values and figures as a notebook would.

    Args:
        smaller: replacements for parts of the script, each of which occurs in it once.
    """
    text = script.read_text(encoding="utf-8")
    for old, new in smaller.items():
        assert text.count(old) == 1, f"{script.name} has {old!r} {text.count(old)} times, expected 1"
        text = text.replace(old, new)
    names: dict[str, Any] = {"__name__": "__main__"}
    with (
        contextlib.chdir(script.parent),
        matplotlib.rc_context({"backend": "agg"}),
        torch.random.fork_rng(),
        torch.enable_grad(),
        patch("IPython.display.display", _show),
    ):
        for cell in jupytext.reads(text, fmt="py:percent").cells:
            if cell.cell_type == "code":
                _run_cell(cell.source, script, text.count("\n", 0, text.index(cell.source)), names)


def _run_cell(source: str, script: Path, line: int, names: dict[str, Any]) -> None:
    tree = ast.parse(source)
    ast.increment_lineno(tree, line)  # tracebacks show the script
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(script), "exec"), names)
    if last is not None:
        _show(eval(compile(ast.Expression(last.value), str(script), "eval"), names))
    for number in plt.get_fignums():
        _show(plt.figure(number))
    plt.close("all")


def _show(*values: object) -> None:
    for value in values:
        if isinstance(value, Figure):
            value.canvas.draw()
        elif value is not None:
            html = getattr(value, "_repr_html_", None)
            assert html is None or html(), f"{type(value).__name__} shows nothing"
            repr(value)
