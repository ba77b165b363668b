"""The table in ``benchmarks/README.md``.

python -m benchmarks.bench.table      (rebuilds it from results.json and the saved results of `make bench-sae`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import dictionaries
from benchmarks.bench.linear import line_of
from benchmarks.bench.markdown import table, write_into

HERE = Path(__file__).parents[1]
README, RESULTS = HERE / "README.md", HERE / "results.json"
HEAD = ("work", "against", "ours / theirs", "quartiles", "at most", "ours, ms", "theirs, ms", "GFLOP", "GFLOP/s")
_MEMORY = ("work", "who", "MiB at most, beyond what was there", "MiB kept")
MORE_THAN_KEPT = (
    1.10  # memory limit: growth over the bare pass when every point is cached, relative to the cached bytes
)


def rendered(results: Mapping[str, Any]) -> str:
    parts = [_head(results), *results.get("notes", ())]
    for size, rows in results["sizes"].items():
        parts += [f"**{size}**", table(HEAD, [row_cells(row) for row in rows])]
        if line := line_of(rows):
            parts.append(str(line))
        if memory := results["memory"].get(size):
            peaks = [(row["case"], row["who"], row["peak_mib"], row["kept_mib"]) for row in memory]
            parts += [table(_MEMORY, peaks), *_more_than_kept(memory)]
    sections = dict(results.get("sections", {}))
    if trained := dictionaries.section():
        sections["Training of dictionaries (`make bench-sae`)"] = trained
    for title, text in sections.items():
        parts += [f"**{title}**", text]
    return "\n\n".join(parts) + "\n"


def _head(results: Mapping[str, Any]) -> str:
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version)
    rates = ", ".join(f"{shape}: {rate}" for shape, rate in m["gflops_of_products"].items())
    best = max(m["gflops_of_products"].values())
    return (
        f"Measured {m['date']} at {m['commit']} on {m['cpu']} ({m['vector']}), {m['cores']} cores, {m['threads']} "
        f"threads, float32; {versions}. Products in GFLOP/s: {rates}. Others used {results['others_cores']} cores "
        f"meanwhile. {results['rounds']} rounds. GFLOP and GFLOP/s are ours; divided by {best:g} they are the time "
        "that the products alone take at this machine's best."
    )


def row_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a result under :data:`HEAD`."""
    counted = row.get("ours_gflop")
    return (
        row["case"],
        row["other"],
        f"{row['ratio']:.2f}",
        f"{row['low']:.2f} to {row['high']:.2f}",
        "" if row["target"] is None else f"{row['target']:g} {'✓' if row['met'] else '✗'}",
        f"{row['ours_ms']:.0f}",
        f"{row['other_ms']:.0f}",
        f"{counted:.3g}" if counted else "",
        f"{1e3 * counted / row['ours_ms']:.0f}" if counted else "",
    )


def _more_than_kept(memory: Sequence[Mapping[str, Any]]) -> list[str]:
    """For cases with a bare pass of ours: the memory that caching adds, relative to the size of the cache."""
    peaks = {(row["case"], row["who"]): row["peak_mib"] for row in memory}
    notes = []
    for row in memory:
        bare = peaks.get((row["case"], "ours, bare forward"))
        if row["who"] == "ours" and bare is not None:
            extra, held = row["peak_mib"] - bare, row["kept_mib"]
            met = "✓" if extra <= MORE_THAN_KEPT * held else "✗"
            notes.append(
                f"Keeping {row['case']} takes {extra:.0f} MiB beyond the bare pass, {held:.0f} MiB are kept: "
                f"{extra / held:.2f}, at most {MORE_THAN_KEPT:g} {met}"
            )
    return notes


if __name__ == "__main__":
    write_into(README, rendered(json.loads(RESULTS.read_text())))
