"""The table of the user's day in ``benchmarks/README.md``: ``python -m benchmarks.day.table`` rebuilds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench.markdown import table
from benchmarks.day.jobs import JOBS

HERE = Path(__file__).parents[1]
README, RESULTS = HERE / "README.md", HERE / "day.json"
BEGIN, END = "<!-- day: begin -->", "<!-- day: end -->"
_HEAD = (
    "job", "model", "amount", "run: ours, obvious", "ours", "obvious script", "times faster", "goal",
    "peak MiB: ours, obvious", "the same",
)  # fmt: skip


def rendered(results: Mapping[str, Any]) -> str:
    rows = []
    for key, entry in sorted(results["jobs"].items(), key=lambda item: _order(item[0])):
        name, model = key.split("/")
        if "ours" in entry and "obvious" in entry:
            rows.append(_row(name, model, entry))
    m = results["machine"]
    head = (
        f"Measured {m['date']} at {m['commit']} on {m['cpu']}, {m['cores']} cores, {m['threads']} threads, float32, "
        f"size {results['size']}. Each side is a separate process; loading the model is not timed. Seconds are for the "
        "whole job, scaled from the part that was run. The peak is that of the process, with libraries and weights."
    )
    return f"{head}\n\n{table(_HEAD, rows)}\n"


def ratio(name: str, entry: Mapping[str, Any], clock: str = "seconds") -> float:
    """Time of the obvious script divided by ours, for the same amount."""
    return _whole(name, entry["obvious"], clock) / _whole(name, entry["ours"], clock)


def write_into(readme: Path, text: str) -> None:
    """Replace the text between the markers.

    Raises:
        ValueError: the file lacks a marker.
    """
    before, begin, after = readme.read_text().partition(BEGIN)
    _, end, after = after.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def _row(name: str, model: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    job, ours, obvious = JOBS[name], entry["ours"], entry["obvious"]
    faster = ratio(name, entry)
    return (
        job.title,
        model,
        f"{job.whole} {job.unit}",
        f"{ours['amount']}, {obvious['amount']}",
        f"{_whole(name, ours):.0f} s",
        f"{_whole(name, obvious):.0f} s",
        f"{faster:.1f}",
        f"{job.least:g} {'✓' if faster >= job.least else '✗'}",
        f"{ours['peak_mib']:.0f}, {obvious['peak_mib']:.0f}",
        entry["agree"],
    )


def _whole(name: str, measured: Mapping[str, Any], clock: str = "seconds") -> float:
    """Scale to the whole job. What does not depend on the amount, such as the scan for pages, is counted once."""
    fixed = float(measured.get("fixed", {}).get(clock, 0.0))
    return fixed + (float(measured[clock]) - fixed) * JOBS[name].whole / float(measured["amount"])


def _order(key: str) -> tuple[int, str]:
    name, model = key.split("/")
    return list(JOBS).index(name), model


if __name__ == "__main__":
    write_into(README, rendered(json.loads(RESULTS.read_text())))
