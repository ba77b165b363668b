"""Write findings to JSON and read them back. Undefined numbers are ``null``, and writing is atomic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.findings.core.finding import RULE, Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement, Span, Table

FORMAT = "hooked_whisper/findings/1"
_DIGITS = 7  # significant digits of measurements, more than the precision of any of them


def to_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as plain JSON values, with its status and the numbers that decided it."""
    return {
        "id": finding.id,
        "title": finding.title,
        "claim": finding.claim,
        "status": finding.status,
        "status_reason": finding.status_reason,
        "statistic": None if finding.statistic is None else finding.statistic.name,
        "deciding": None if finding.deciding is None else finding.deciding.name,
        "protocol": finding.protocol,
        "model": finding.model,
        "inputs": _plain(finding.inputs),
        "parameters": _plain(finding.parameters),
        "criteria": [{**asdict(c), "passed": c.passed, "clear": c.clear} for c in finding.criteria],
        "controls": [{**asdict(c), "reproduces": c.reproduces(finding.claims)} for c in finding.controls],
        "measurements": [_measurement(m) for m in finding.measurements],
        "tables": [asdict(t) for t in finding.tables],
        "published": [asdict(t) for t in finding.published],
        "published_summary": finding.published_summary,
        "examples": [asdict(e) for e in finding.examples],
        "notes": list(finding.notes),
        "reason_untestable": finding.reason_untestable,
        "error": finding.error,
        "extra": _plain(finding.extra),
        "seconds": finding.seconds,
        "peak_mib": finding.peak_mib,
    }


def from_dict(data: dict[str, Any]) -> Finding:
    """Return the finding that :func:`to_dict` wrote. Its status is computed again, not read."""
    return Finding(
        id=data["id"],
        title=data["title"],
        claim=data["claim"],
        protocol=data["protocol"],
        model=data["model"],
        inputs=data["inputs"],
        parameters=data["parameters"],
        criteria=tuple(
            Criterion(c["name"], Estimate(**c["estimate"]), c["threshold"], c["direction"], c["unit"], c["role"])
            for c in data["criteria"]
        ),
        controls=tuple(
            Control(c["name"], c["description"], {name: Estimate(**e) for name, e in c["values"].items()})
            for c in data["controls"]
        ),
        measurements=tuple(
            Measurement(
                m["name"],
                tuple(Axis(a["name"], tuple(a["entries"]), a["unit"]) for a in m["axes"]),
                _array(m),
                m["unit"],
            )
            for m in data["measurements"]
        ),
        tables=tuple(_table(t) for t in data["tables"]),
        published=tuple(_table(t) for t in data["published"]),
        published_summary=data["published_summary"],
        examples=tuple(
            Example(
                e["utterance"],
                e["speaker"],
                e["reference"],
                tuple((a, b) for a, b in e["transcripts"]),
                tuple(Span(**s) for s in e["spans"]),
                e["note"],
            )
            for e in data["examples"]
        ),
        notes=tuple(data["notes"]),
        reason_untestable=data["reason_untestable"],
        error=data["error"],
        extra=data["extra"],
        seconds=data.get("seconds"),
        peak_mib=data.get("peak_mib"),
    )


def save_findings(path: str | Path, findings: Sequence[Finding], **about: Any) -> None:
    """Write a JSON file with the rule, the facts in ``about`` (version, command, ...), and the findings."""
    data = {"format": FORMAT, "rule": RULE, **_plain(about), "findings": [to_dict(f) for f in findings]}
    write_atomic(Path(path), json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode())


def load_findings(path: str | Path) -> list[Finding]:
    """Read a file that :func:`save_findings` wrote.

    Raises:
        ValueError: the file has another format.
    """
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if data.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {data.get('format')!r}, expected {FORMAT!r}: write it with save_findings of this "
            "version"
        )
    return [from_dict(entry) for entry in data["findings"]]


def _table(t: dict[str, Any]) -> Table:
    return Table(t["title"], t["source"], tuple(t["columns"]), tuple(tuple(r) for r in t["rows"]))


def _measurement(m: Measurement) -> dict[str, Any]:
    flat = [None if not np.isfinite(v) else float(f"{v:.{_DIGITS}g}") for v in m.values.ravel()]
    axes = [{"name": a.name, "entries": _plain(a.entries), "unit": a.unit} for a in m.axes]
    return {"name": m.name, "unit": m.unit, "axes": axes, "values": _nested(flat, m.values.shape)}


def _array(m: dict[str, Any]) -> np.ndarray:
    shape = tuple(len(a["entries"]) for a in m["axes"])
    return np.array(_to_nan(m["values"]), dtype=float).reshape(shape)


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _to_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_to_nan(v) for v in values]
    return np.nan if values is None else values


def _plain(value: Any) -> Any:
    """Convert to plain Python numbers, lists and strings; numbers that are not finite become ``None``."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
