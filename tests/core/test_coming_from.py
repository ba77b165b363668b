"""The tables of docs/coming_from/transformer_lens.md: every name in them exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from hooked_whisper import FactoredMatrix, HookedWhisper, HookPoint, analysis, loading, patching, utils, viewer
from hooked_whisper.hooks import ActivationCache

PAGE = Path(__file__).parents[2] / "docs" / "coming_from" / "transformer_lens.md"
CALLS = PAGE.read_text(encoding="utf-8").partition("## Calls")[2].partition("\n## ")[0]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in CALLS.splitlines() if "`" in line]
ROWS = [row for row in ROWS if len(row) == 2]
SPAN = re.compile(r"`([^`]+)`")
KEYWORD = re.compile(r"(\w+)=(?!=)")


@pytest.fixture(scope="module")
def places() -> dict[str, Any]:
    model = HookedWhisper.from_pretrained("demo")
    return {
        "model": model,
        "cfg": model.cfg,
        "cache": ActivationCache({}, model),
        "hook": model.hook_dict["decoder.blocks.0.hook_resid_pre"],
        "utils": utils,
        "patching": patching,
        "analysis": analysis,
        "loading": loading,
        "viewer": viewer,
    }


def exists(path: str, places: dict[str, Any]) -> bool:
    """Whether a dotted name exists: below its first word, or on anything a user has."""
    first, _, below = path.partition(".")
    if first in places:
        target: Any = places[first]
        for name in below.split(".") if below else ():
            if not hasattr(target, name):
                return False
            target = getattr(target, name)
        return True
    owners = [*places.values(), HookedWhisper, FactoredMatrix, HookPoint]
    return any(hasattr(owner, path) for owner in owners)


def keywords() -> set[str]:
    names: set[str] = set()
    for function in (
        HookedWhisper.run_with_cache,
        HookedWhisper.forward,
        HookedWhisper.loss_fn,
        HookedWhisper.to_tokens,
        HookedWhisper.reset_hooks,
        ActivationCache.slice,
        ActivationCache.stack_head_results,
        ActivationCache.apply_ln_to_stack,
        patching.patch,
    ):
        names |= set(inspect.signature(function).parameters)
    return names | {"batch"}  # of cache.slice(**cuts)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_name_in_a_row_exists(row: tuple[str, str], places: dict[str, Any]) -> None:
    theirs, ours = row
    spans = SPAN.findall(ours)
    if ours.startswith("the same"):
        spans += [span for span in SPAN.findall(theirs) if not span.startswith("FactoredMatrix")]
    assert spans
    for span in spans:
        text = re.sub(r"\"[^\"]*\"", '""', span)
        for keyword in KEYWORD.findall(text):
            assert keyword in keywords(), f"{keyword}= in {span}"
        path = re.match(r"[A-Za-z_][\w.]*", text)
        if path is None or text.startswith(('"', "<", "(")) or re.fullmatch(r"\w+=.*", text):
            continue
        name = path.group().rstrip(".").removesuffix(".get_act_patch_")
        if name in {"None", "E0.1", "D0.1", "X0.1", "test_prompt"}:
            continue
        if name.endswith("_"):  # get_act_patch_*
            assert any(n.startswith(name) for n in dir(patching))
            continue
        assert exists(name, places), f"{name} in {span}"


def test_the_table_was_read() -> None:
    assert len(ROWS) > 40
