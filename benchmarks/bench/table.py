"""The table in ``benchmarks/README.md``, between its two marks; what people wrote around it stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def rendered(results: Mapping[str, Any]) -> str:
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version)
    rates = ", ".join(f"{shape}: {rate}" for shape, rate in m["gflops_of_products"].items())
    lines = [
        f"Measured {m['date']} at {m['commit']} on {m['cpu']} ({m['vector']}), {m['cores']} cores, {m['threads']} "
        f"threads, float32; {versions}. Products in GFLOP/s: {rates}. Others used {results['others_cores']} cores "
        f"meanwhile. {results['rounds']} rounds.",
    ]
    for size, rows in results["sizes"].items():
        lines += ["", f"**{size}**", "", _HEAD, "|---|---|---|---|---|---|"]
        lines += [_row(row) for row in rows]
        if memory := results["memory"].get(size):
            lines += ["", "| work | who | MiB at most, beyond what was there | MiB kept |", "|---|---|---|---|"]
            lines += [f"| {one['case']} | {one['who']} | {one['peak_mib']} | {one['kept_mib']} |" for one in memory]
    for title, text in results.get("sections", {}).items():
        lines += ["", f"**{title}**", "", text]
    return "\n".join(lines) + "\n"


_HEAD = "| work | against | ours / theirs | quartiles | at most | ours, ms |"


def _row(row: Mapping[str, Any]) -> str:
    target = "" if row["target"] is None else f"{row['target']:g} {'✓' if row['met'] else '✗'}"
    cells = (
        row["case"],
        row["other"],
        f"{row['ratio']:.2f}",
        f"{row['low']:.2f} to {row['high']:.2f}",
        target,
        f"{row['ours_ms']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def write_into(readme: Path, text: str) -> None:
    """Raises ``ValueError`` for a file without the two marks."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
