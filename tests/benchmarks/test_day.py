"""The user's day: both sides give the same, times are scaled, and only the part between the markers is rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.day import models, obvious_findings, obvious_scan, ours, ours_findings
from benchmarks.day.__main__ import parser
from benchmarks.day.jobs import JOBS
from benchmarks.day.speech import HOUR, RATE, write_speech
from benchmarks.day.table import BEGIN, END, README, RESULTS, ratio, rendered, write_into


def entry(seconds: float, amount: int) -> dict[str, Any]:
    return {"amount": amount, "seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mib": 10.0, "loaded_mib": 5.0}


def results() -> dict[str, Any]:
    machine = {"date": "today", "commit": "abc", "cpu": "a CPU", "cores": 2, "threads": 2}
    jobs = {"scan/tiny.en": {"ours": entry(6, 60), "obvious": entry(8, 20), "agree": "all is equal"}}
    return {"size": "full", "machine": machine, "jobs": jobs}


def test_times_are_scaled_to_the_whole_job() -> None:
    assert ratio("scan", results()["jobs"]["scan/tiny.en"]) == pytest.approx(4)
    text = rendered(results())
    assert "| 12 s | 48 s | 4.0 | 3 ✓ | 10, 10 | all is equal |" in text


def test_what_does_not_depend_on_the_amount_is_counted_once() -> None:
    scripts = entry(8, 20) | {"fixed": {"seconds": 2.0}}
    assert ratio("scan", {"ours": entry(6, 60), "obvious": scripts}) == pytest.approx((2 + 6 * 6) / 12)


def test_table_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(path, "new\n")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="day: begin"):
        write_into(README.parent / "__init__.py", "")


def test_readme_is_what_the_command_wrote() -> None:
    written = README.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    if RESULTS.exists():
        assert written == rendered(json.loads(RESULTS.read_text())).strip()


@pytest.mark.parametrize(
    ("name", "result", "other"),
    [
        ("patch", {"values": [[1.0, 2.0]]}, {"values": [[1.0, 2.1]]}),
        ("scan", {"largest": [[3.0]], "amount": 2, "job": "scan"}, {"largest": [[3.1]], "amount": 2, "job": "scan"}),
        ("scan", {"largest": [[3.0]], "amount": 2, "job": "scan"}, {"largest": [[3.1]], "amount": 1, "job": "scan"}),
        ("transcribe", {"texts": ["a", "b"]}, {"texts": ["a", "c"]}),
        ("findings", {"values": [2.0], "texts": ["a"]}, {"values": [4.0], "texts": ["a"]}),
        ("sae", {"explained": 0.6}, {"explained": 0.7}),
    ],
)
def test_other_results_are_not_the_same(name: str, result: dict[str, Any], other: dict[str, Any]) -> None:
    JOBS[name].agree(result, result)
    with pytest.raises(AssertionError):
        JOBS[name].agree(result, other)


def test_obvious_scan_finds_the_same_examples(tmp_path: Path) -> None:
    write_speech(tmp_path, 0, 2, 0)
    import soundfile

    assert soundfile.info(tmp_path / HOUR / "0001.wav").frames == 30 * RATE
    torch.set_num_threads(1)
    sides = (ours.scanned(models.ours("demo"), tmp_path, 2), obvious_scan.run(models.openai("demo"), tmp_path, 2))
    mine, theirs = ({**side, "amount": 2, "job": "scan"} for side in sides)
    assert "within 0.001" in JOBS["scan"].agree(mine, theirs)


def test_obvious_findings_measure_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_speech(tmp_path, 1, 0, 0)
    for side in (ours_findings, obvious_findings):
        monkeypatch.setattr(side, "WINDOWS", (10,))
    torch.set_num_threads(1)
    mine = ours_findings.run(models.ours("demo"), tmp_path, 1)
    theirs = obvious_findings.run(models.openai("demo"), tmp_path, 1)
    assert len(theirs["texts"]) > 3
    assert "1 distances" in JOBS["findings"].agree(mine, theirs)


def test_unknown_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--only", "scam"])
    assert "invalid choice: 'scam'" in capsys.readouterr().err
