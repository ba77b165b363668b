"""The replication table: every finding on every model and kind of speech, from the files that ``replicate`` wrote."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.bench.markdown import table
from docs.tools.replicate import MODELS, SPEECH, cells
from hooked_whisper.findings.core.finding import Criterion, Estimate, Finding, format_estimate, format_number
from hooked_whisper.findings.core.records import Measurement
from hooked_whisper.findings.core.serialization import load_findings
from hooked_whisper.findings.registry import REGISTRY

SENTENCES = "sentences.toml"  # in the folder of the runs: a sentence on what is true of Whisper for each finding
COLUMNS = tuple((model, speech) for model in MODELS for speech in SPEECH)
_PLACE = re.compile(r"\{([^{}|]+)\|([^{}|]+)(?:\|([^{}|]+))?\}")

Runs = dict[tuple[str, str], list[dict[str, Finding]]]  # (model, speech) -> by seed -> id -> finding


@cache
def read_runs(folder: Path) -> Runs:
    """Return the findings of every saved cell, with seeds in order. Cells that were not run are missing."""
    runs: Runs = {}
    for cell in cells():
        path = folder / cell.path.name
        if path.is_file():
            runs.setdefault((cell.model, cell.speech), []).append({f.id: f for f in load_findings(path)})
    return runs


def verdicts_table(folder: Path) -> str:
    """Return a table with the verdicts of each finding in all cells, and a sentence on what is true of Whisper."""
    runs, sentences = read_runs(folder), _sentences(folder)
    header = ("finding", *(f"{model}, {speech}" for model, speech in COLUMNS), "what is true of Whisper")
    rows = [
        (
            f"{entry.title} ({id})",
            *(_verdict(id, speech, runs.get((model, speech), [])) for model, speech in COLUMNS),
            filled_sentence(sentences.get(id, ""), runs),
        )
        for id, entry in REGISTRY.items()
    ]
    return table(header, rows).strip()


def numbers_table(folder: Path, ids: Sequence[str] = ()) -> str:
    """Return a table with a row for each finding (default: all) and cell: deciding number, threshold, controls, time
    and memory."""
    runs = read_runs(folder)
    rows = []
    for id in ids or REGISTRY:
        for model, speech in COLUMNS:
            of_seeds = [run[id] for run in runs.get((model, speech), []) if id in run]
            if of_seeds:
                rows.append((f"{REGISTRY[id].title} ({id})", f"{model}, {speech}", *_numbers(of_seeds)))
    header = ("finding", "run", "verdict by seed", "deciding number, 95 % interval", "needs", "controls", "s", "MiB")
    return table(header, rows).strip()


def sentence_on(id: str, folder: Path) -> str:
    """Return the sentence on what is true of Whisper, with its numbers."""
    return filled_sentence(_sentences(folder).get(id, ""), read_runs(folder))


def filled_sentence(sentence: str, runs: Runs) -> str:
    """Return a sentence with numbers in place of ``{MODEL/SPEECH|criterion}`` and ``{MODEL/SPEECH|criterion|control}``.

    ``{MODEL/SPEECH|measurement|entry, entry}`` is a value of a saved measurement, with an entry of each of its axes.

    Raises:
        KeyError: there is no such run, criterion, control, measurement or entry.
    """

    def number(match: re.Match[str]) -> str:
        model, _, speech = match[1].partition("/")
        findings = [f for run in runs[model, speech][:1] for f in run.values()]
        for finding in findings:
            for criterion in finding.criteria:
                if criterion.name == match[2]:
                    return _value(finding, criterion, match[3])
            for measurement in finding.measurements:
                if measurement.name == match[2] and match[3]:
                    return _cell(measurement, match[3].split(", "))
        raise KeyError(f"no criterion or measurement {match[2]!r} in {match[1]}")

    return _PLACE.sub(number, sentence)


def _value(finding: Finding, criterion: Criterion, control: str | None) -> str:
    estimate = criterion.estimate
    if control is not None:
        values = {c.name: c.values for c in finding.controls}
        estimate = values[control][criterion.name]
    return f"{format_estimate(estimate)}{f' {criterion.unit}' if criterion.unit else ''}"


def _cell(measurement: Measurement, entries: Sequence[str]) -> str:
    """Return a value by the entries of all axes, as text."""
    where = {
        axis.name: next((entry for entry in axis.entries if str(entry) == text), text)
        for axis, text in zip(measurement.axes, entries, strict=True)
    }
    return format_number(float(measurement.at(**where)))


def _sentences(folder: Path) -> dict[str, str]:
    path = folder / SENTENCES
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _verdict(id: str, speech: str, of_seeds: Sequence[dict[str, Finding]]) -> str:
    """Return the status with the number of seeds, or all statuses with their counts if they differ."""
    counts = Counter(run[id].status for run in of_seeds if id in run)
    if not counts:
        return "as packaged" if speech == "human" and REGISTRY[id].own_speech else "–"
    if len(counts) == 1:
        (status, n), *_ = counts.items()
        return f"{status} ({n} of {n} seeds)" if n > 1 else status
    return ", ".join(f"{status} {n}" for status, n in counts.most_common())


def _numbers(of_seeds: Sequence[Finding]) -> tuple[str, ...]:
    finding = of_seeds[0]
    verdicts = ", ".join(f.status for f in of_seeds)
    seconds = "" if finding.seconds is None else f"{finding.seconds:.0f}"
    memory = "" if finding.peak_mib is None else f"{finding.peak_mib:.0f}"
    criterion = finding.deciding
    if criterion is None or finding.status in ("not testable", "error"):
        return verdicts, finding.status_reason, "", "", seconds, memory
    others = [f.deciding.estimate for f in of_seeds[1:] if f.deciding is not None and f.deciding.name == criterion.name]
    further = f"; other seeds {', '.join(format_number(e.value) for e in others)}" if others else ""
    controls = [
        f"{c.name} {format_estimate(estimate)}"
        for c in finding.controls
        if (estimate := c.values.get(criterion.name, Estimate(None))).value is not None
    ]
    return (
        verdicts,
        f"{criterion.name}: {format_estimate(criterion.estimate)} {criterion.unit}".strip() + further,
        f"{criterion.direction} {format_number(criterion.threshold)}",
        "; ".join(controls),
        seconds,
        memory,
    )
