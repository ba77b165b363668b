"""Run findings one after the other, saving after each one, and skip those that an earlier run has saved."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.registry import REGISTRY, Entry, run_finding
from hooked_whisper.findings.core.serialization import load_findings, save_findings

log = logging.getLogger(__name__)


def run_and_save(
    entries: Sequence[Entry],
    context: Context,
    path: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    again: bool = False,
    shorten: Callable[[Finding], Finding] | None = None,
    **about: Any,
) -> Iterator[Finding]:
    """Run each entry on the context, and yield its finding after ``path`` was written with all findings so far.

    Args:
        path: the JSON file (:func:`~hooked_whisper.findings.core.serialization.save_findings`).
        settings: what the numbers depend on (model, speech, seed, ...); saved in the file.
        resume: keep the findings that ``path`` already has, if its settings are the same; findings with the status
            "error" are run again.
        again: with ``resume``, run these entries again and keep the other findings of the file.
        shorten: applied to every finding before it is saved and yielded.
        about: further facts for the file.
    """
    findings = _saved(path, settings) if resume else {}
    if again:
        findings = {id: finding for id, finding in findings.items() if id not in {entry.id for entry in entries}}
    for entry in entries:
        if entry.id not in findings:
            finding = run_finding(entry, context)
            findings[entry.id] = finding if shorten is None else shorten(finding)
            in_order = [findings[id] for id in REGISTRY if id in findings]
            save_findings(path, in_order, settings=dict(settings), **about)
        yield findings[entry.id]


def _saved(path: Path, settings: Mapping[str, Any]) -> dict[str, Finding]:
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8")).get("settings")
    if before != dict(settings):
        log.warning("%s has findings of a run with other settings (%s): they are run again", path, before)
        return {}
    return {finding.id: finding for finding in load_findings(path) if finding.status != "error"}
