"""``hooked-whisper hooks``: the hook points of a model, with their axes and lengths."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from hooked_whisper.cli.model_arguments import add_model
from hooked_whisper.cli.prepare import find_model

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper


def add_hooks(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``hooks``."""
    parser.add_argument("--names", metavar="GLOB", help="list only these, such as 'decoder.*.cross_attn.hook_pattern'")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of a table")
    add_model(parser, device=False)


def run_hooks(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Print a line or a JSON object per hook point."""
    model = find_model(parsed.model).shapes
    rows = [_hook_row(model, name) for name in model.hook_names(parsed.names)]
    if parsed.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        lengths = (
            axis if size is None else f"{axis}={size}" for axis, size in zip(row["axes"], row["shape"], strict=True)
        )
        print(f"{row['name']:<{width}}  [{', '.join(lengths)}]{'  (optional)' if row['optional'] else ''}")
    return 0


def _hook_row(model: HookedWhisper, name: str) -> dict[str, Any]:
    """Return the axes and their lengths (``None`` for batch and tokens, which depend on the input)."""
    cfg, point = model.cfg.encoder, model.hook_dict[name]
    lengths = {"batch": -1, "token": -1, "frame": cfg.n_frames, "position": cfg.n_ctx}
    shape = [None if size < 0 else size for size in point.shape(lengths)]
    return {"name": name, "axes": list(point.axes), "shape": shape, "optional": point.optional}
