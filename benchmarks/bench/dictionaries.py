"""Tables of SAE training from the results that ``make bench-sae`` saved; training takes too long to repeat here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.bench.markdown import table

LEFT = Path(__file__).parents[1] / "sae_training.json"


def section(path: Path = LEFT) -> str | None:
    """Return one table per architecture, or ``None`` if there are no saved results."""
    if not path.exists():
        return None
    facts = json.loads(path.read_text())
    here = facts["machine"]
    lines = [f"{here['processor']}, {here['threads']} threads, torch {here['torch']}."]
    for result in facts["results"]:
        head = (result["name"], "activations/s", "times as long as ours", "quartiles", "MB at most")
        lines += ["", table(head, [_row(result_row) for result_row in result["implementations"]])]
    return "\n".join(lines)


def _row(result: dict[str, Any]) -> tuple[object, ...]:
    ratio = result["times_as_long"]
    return (
        f"{result['name']} {result['version']}",
        f"{result['activations_per_s']:,.0f}",
        f"{ratio['median']:.2f}",
        "{:.2f} to {:.2f}".format(*ratio["quartiles"]),
        f"{result['peak_mb']:.0f}",
    )
