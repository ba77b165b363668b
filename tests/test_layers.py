"""Imports follow the order of the layers: a module imports only from its layer and those above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hooked_whisper

LAYERS = [
    "errors",
    "protocols",
    "config",
    "_support",
    "hooks",
    "model",
    "loading",
    "audio",
    "text",
    "decoding",
    "hooked",
    "utils",
    "corpora",
    "activations",
    "patching",
    "interventions",
    "analysis",
    "features",
    "synthetic",
    "findings",
    "neural",
    "viewer",
    "report",
    "explorer",
    "cli",
    "__main__",
    "speech",
    "weights",
]
ROOT = Path(hooked_whisper.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem != "__init__")


def layer(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> set[str]:
    """Layers imported at run time (not those under ``if TYPE_CHECKING``)."""
    layers: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module] if node.module != "hooked_whisper" else [f"hooked_whisper.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        layers |= {n.split(".")[1] for n in names if n.startswith("hooked_whisper.")}
        assert not any(n.startswith("sae_lens_audio") for n in names), "hooked_whisper must not import sae_lens_audio"
        waiting.extend(ast.iter_child_nodes(node))
    return layers & set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    own_layer = layer(path.relative_to(ROOT).parts)
    assert own_layer in LAYERS, f"add {own_layer} to LAYERS"
    above = set(LAYERS[: LAYERS.index(own_layer) + 1])
    assert imported(ast.parse(path.read_text())) <= above
