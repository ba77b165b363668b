"""Fill in the tables of README.md and the docs that come from files: ``python -m docs.tools.readme_tables``.

A table is between ``<!-- table: KIND FILE -->`` and ``<!-- end of table -->``. A test checks that it agrees with the
file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.bench.markdown import table
from docs.tools.replication_tables import numbers_table, verdicts_table
from docs.tools.sae_speech_tables import sae_speech_table
from docs.tools.sae_tables import audit_table, benchmark_table, training_table
from docs.tools.speed_table import speed_table
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.findings.core.finding import Criterion, Estimate, Finding, format_estimate, format_number
from hooked_whisper.findings.core.serialization import load_findings

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_TABLE = re.compile(
    r"(?P<head><!-- table: (?P<kind>[\w-]+) (?P<file>[\w./-]+) -->\n)(?P<body>.*?)(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def filled(page: str) -> str:
    """Return the page with all tables filled in from their files.

    Raises:
        KeyError: there is no such kind of table.
    """

    def fill(match: re.Match[str]) -> str:
        return match["head"] + KINDS[match["kind"]](ROOT / match["file"]) + "\n" + match["end"]

    return _TABLE.sub(fill, page)


ORGANISM = {
    "F9": "do raw logits recover a bigram matrix that is known exactly?",
    "F4": "does a cut remove the word whose time is known exactly?",
    "F5": "does phone selectivity find phones whose times are known exactly?",
    "W1": "does patching find the deciding span if two runs differ in one word?",
    "L3": "do alignment heads give word times that are known exactly?",
}


def organism_table(path: Path) -> str:
    """Return a table of what some methods find on the demo model, where the truth is known."""
    findings = {finding.id: finding for finding in load_findings(path)}
    rows = [(f"{question} ({id})", *_verdict_cells(findings[id])) for id, question in ORGANISM.items()]
    return table(("question", "verdict", "deciding number, 95 % interval", "needs", "strongest control"), rows).strip()


def _verdict_cells(finding: Finding) -> tuple[str, ...]:
    """Return the status, the deciding number, its threshold, and the strongest control."""
    criterion = finding.deciding
    if criterion is None or finding.status in ("not testable", "error"):
        return finding.status, finding.status_reason, "", ""
    return (
        finding.status,
        f"{criterion.name}: {format_estimate(criterion.estimate)} {criterion.unit}".strip(),
        f"{criterion.direction} {format_number(criterion.threshold)}",
        _strongest(finding, criterion),
    )


def _strongest(finding: Finding, criterion: Criterion) -> str:
    """Return the control that comes nearest to meeting the criterion."""
    values = [
        (control.name, estimate)
        for control in finding.controls
        if (estimate := control.values.get(criterion.name, Estimate(None))).value is not None
    ]
    if not values:
        return ""
    sign = 1 if criterion.direction == "at least" else -1
    name, estimate = max(values, key=lambda pair: sign * float(pair[1].value or 0))
    return f"{name} {format_number(estimate.value)}"


def speech_table(path: Path) -> str:
    """Return a table of word error rates on the packaged speech by model: English, held-out voices, other languages."""
    rows = []
    for model, groups in json.loads(path.read_text(encoding="utf-8"))["wer"].items():
        others = {k: v for k, v in groups["languages"].items() if k != "en"}
        rows.append(
            (
                model,
                _rate(groups["english"]),
                _rate(groups["splits"]["held-out"]),
                ", ".join(f"{language} {row['wer']:.1f}" for language, row in others.items()) or "–",
            )
        )
    return table(("model", "English, 95 % interval", "held-out voices", "other languages"), rows).strip()


def _rate(estimate: Mapping[str, float]) -> str:
    return f"{estimate['wer']:.1f} % [{estimate['low']:.1f}, {estimate['high']:.1f}]"


_STEERING = {"foil": 100, "changed": 100, "logprob": 1, "others_changed": 100}  # columns and their factors


def steering_table(path: Path) -> str:
    """Return a table of what erasing and pushing features does to words, by corpus and edit."""
    rows = []
    for corpus, result in json.loads(path.read_text(encoding="utf-8"))["corpora"].items():
        name = f"{corpus}: {result['cases']} words, {result['clips']} clips, {result['speakers']} speakers"
        for edit, measures in result["estimates"].items():
            cells = [_with_interval(measures[measure], factor) for measure, factor in _STEERING.items()]
            rows.append((name, edit, *cells))
            name = ""
    columns = (
        "speech",
        "edit",
        "other word written, %",
        "word changed, %",
        "log-probability, nats",
        "others changed, %",
    )
    return table(columns, rows).strip()


def steering_verdict_table(path: Path) -> str:
    """Return a table of the criteria that were fixed before the measurement."""
    rows = []
    for corpus, result in json.loads(path.read_text(encoding="utf-8"))["corpora"].items():
        for criterion in result["criteria"]:
            direction = "at least" if "at least" in criterion else "at most"
            factor = 1 if "nats" in criterion["name"] else 100
            unit = "" if factor == 1 else " %"
            threshold = f"{direction} {format_number(factor * criterion[direction])}{unit}"
            cell = _with_interval(criterion["estimate"], factor)
            rows.append((corpus, criterion["name"], cell + unit, threshold, "yes" if criterion["met"] else "no"))
    return table(("speech", "criterion", "95 % interval", "needs", "met"), rows).strip()


def _with_interval(row: Sequence[float], factor: int) -> str:
    value, low, high = (factor * number for number in row)
    digits = 2 if factor == 1 else 0
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


KINDS: dict[str, Callable[[Path], str]] = {
    "speech": speech_table,
    "steering": steering_table,
    "steering-verdict": steering_verdict_table,
    "organism": organism_table,
    "verdicts": verdicts_table,
    "numbers": numbers_table,
    "sae-speech": sae_speech_table,
    "sae-training": training_table,
    "sae-bench": benchmark_table,
    "sae-audit": audit_table,
    "speed": speed_table,
}


def main() -> None:
    """Fill in the tables of all pages in place."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            write_atomic(page, new.encode())
            print(f"filled {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
