"""The harness: who wins in made-up times, what the table says, and that the text around it stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench.cases import OURS, Case
from benchmarks.bench.table import BEGIN, END, rendered, write_into
from benchmarks.bench.timing import rows_of, take_turns


def results() -> dict[str, object]:
    case = Case("work", {OURS: list, "slow": list, "fast": list}, ("slow", "fast"), 1.0)
    seconds = {OURS: [1.0, 1.1, 0.9], "slow": [2.0, 2.2, 1.8], "fast": [0.5, 0.5, 0.5]}
    rows = [row.as_json() for row in rows_of(case, seconds)]
    machine = {
        "date": "today", "commit": "abc", "cpu": "some", "vector": "avx2", "cores": 2, "threads": 1,
        "versions": {"torch": "2"}, "gflops_of_products": {"1x1x1": 3.0},
    }  # fmt: skip
    memory = [{"case": "work", "who": OURS, "peak_mib": 2.0, "kept_mib": 1.0}]
    return {"machine": machine, "rounds": 3, "sizes": {"tiny": rows}, "memory": {"tiny": memory}, "others_cores": 0.1}


def test_the_goal_is_on_the_row_of_the_fastest() -> None:
    slow, fast = results()["sizes"]["tiny"]  # type: ignore[index]
    assert slow["ratio"] == pytest.approx(0.5) and slow["target"] is None and slow["met"] is None
    assert fast["ratio"] == pytest.approx(2.0) and fast["target"] == 1.0 and fast["met"] is False
    text = rendered(results())
    assert "| work | fast | 2.00 |" in text and "1 ✗" in text and "| work | ours | 2.0 | 1.0 |" in text
    json.dumps(results())


def test_everybody_has_every_turn() -> None:
    calls = {"a": 0, OURS: 0}

    def work(name: str) -> None:
        calls[name] += 1

    seconds = take_turns(Case("w", {OURS: lambda: work(OURS), "a": lambda: work("a")}, ("a",)), 4)
    assert calls == {"a": 5, OURS: 5} and all(len(s) == 4 for s in seconds.values())


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(path, "new\n")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="has no"):
        write_into(path, "new")


@pytest.mark.slow
def test_it_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--quick", "--size", "tiny", "--only", "one *"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "one attention pattern of the middle" in done.stdout
