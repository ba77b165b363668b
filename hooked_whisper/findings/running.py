"""Run experiments one after the other, save after each one, and skip those that an earlier run has saved."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.cost import measured
from hooked_whisper.findings.core.experiment import Experiment
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.serialization import load_findings, save_findings
from hooked_whisper.findings.registry import REGISTRY

log = logging.getLogger(__name__)


def run_experiment(experiment: Experiment[Any], context: Context) -> Finding:
    """Run one experiment and record its cost. An exception becomes a finding with the status "error"; an interruption
    (Ctrl-C) is raised."""
    with measured() as cost:
        finding = _run_or_report(experiment, context)
    return replace(finding, seconds=cost.seconds, peak_mib=cost.peak_mib)


def _run_or_report(experiment: Experiment[Any], context: Context) -> Finding:
    try:
        return experiment.run(context)
    except Exception as error:
        log.warning("%s failed: %s: %s", experiment.id, type(error).__name__, error)
        log.debug("%s failed", experiment.id, exc_info=True)
        return Finding(
            id=experiment.id,
            title=experiment.title,
            claim=experiment.claim,
            protocol=experiment.protocol,
            model=context.model.cfg.name,
            inputs={},
            parameters={},
            error=f"{type(error).__name__}: {error}",
        )


def run_and_save(
    experiments: Sequence[Experiment[Any]],
    context: Context,
    path: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    again: bool = False,
    shorten: Callable[[Finding], Finding] | None = None,
    **about: Any,
) -> Iterator[Finding]:
    """Run each experiment on the context. Yield its finding once ``path`` holds all findings so far.

    Args:
        path: the JSON file (:func:`~hooked_whisper.findings.core.serialization.save_findings`).
        settings: everything that can change the numbers (model, speech, seed, ...); saved in the file.
        resume: keep the findings that ``path`` already has, if its settings are the same. Findings with the status
            "error" are run again.
        again: with ``resume``, run these experiments again and keep the file's other findings.
        shorten: applied to every finding before it is saved and yielded.
        about: more facts to save in the file.
    """
    findings = _saved(path, settings) if resume else {}
    if again:
        rerun = {experiment.id for experiment in experiments}
        findings = {id: finding for id, finding in findings.items() if id not in rerun}
    for experiment in experiments:
        if experiment.id not in findings:
            finding = run_experiment(experiment, context)
            findings[experiment.id] = finding if shorten is None else shorten(finding)
            in_order = [findings[id] for id in REGISTRY if id in findings]
            save_findings(path, in_order, settings=dict(settings), **about)
        yield findings[experiment.id]


def _saved(path: Path, settings: Mapping[str, Any]) -> dict[str, Finding]:
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8")).get("settings")
    if before != dict(settings):
        log.warning("%s was written with other settings (%s): its findings are run again", path, before)
        return {}
    return {finding.id: finding for finding in load_findings(path) if finding.status != "error"}
