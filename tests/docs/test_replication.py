"""The replication table: cells, resuming, sentences that take their numbers from the files."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from docs.tools import replicate
from docs.tools.replicate import Cell, cells, compact
from docs.tools.replication_tables import COLUMNS, filled_sentence, numbers_table, verdicts_table
from hooked_whisper.findings import Control, Criterion, Estimate, Finding, save_findings
from hooked_whisper.findings.core.records import Axis, Measurement


def finding(value: float, id: str = "F3") -> Finding:
    criterion = Criterion("WER difference", Estimate(value, value - 0.1, value + 0.1), 0.5, "at least")
    control = Control("random heads", "", {"WER difference": Estimate(0.0)})
    wide = Measurement("wide", (Axis("k", tuple(range(100)), ""),), np.zeros(100), "")
    return Finding(id, "t", "c", "p", "m", {}, {}, (criterion,), (control,), (wide,), seconds=3.0)


def by_name() -> Measurement:
    axes = (Axis("name", ("r", "an/in/on")), Axis("block", (2, 3)))
    return Measurement("F1", axes, np.array([[0.5, 0.6], [0.1, 0.25]]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(replicate, "FOLDER", tmp_path)
    for seed, value in enumerate((0.9, 0.9, 0.2)):
        save_findings(tmp_path / f"tiny.en.packaged.{seed}.json", [finding(value)])
    return tmp_path


def test_each_cell_has_its_own_file() -> None:
    paths = {cell.path for cell in cells()}
    assert len(paths) == len(cells()) == 3 * len(COLUMNS)
    assert [cell for cell in cells() if cell.is_full] == [Cell("tiny.en", "packaged", 0)]


def test_compact_finding_keeps_its_verdict() -> None:
    small = compact(finding(0.9))
    assert small.status == finding(0.9).status == "reproduced" and not small.measurements and small.controls


def test_tables_show_all_verdicts_and_the_deciding_number(folder) -> None:
    verdicts = next(row for row in verdicts_table(folder).splitlines() if "(F3)" in row)
    assert "reproduced 2, not reproduced 1" in verdicts
    packaged = next(row for row in verdicts_table(folder).splitlines() if "(F9)" in row)
    assert "as packaged" in packaged
    numbers = next(row for row in numbers_table(folder).splitlines() if "(F3)" in row)
    assert "0.9 [0.8, 1]; other seeds 0.9, 0.2" in numbers and "random heads 0" in numbers


def test_sentences_take_their_numbers_from_the_runs(folder) -> None:
    from docs.tools.replication_tables import read_runs

    runs = read_runs(folder)
    text = "It is {tiny.en/packaged|WER difference}, at random {tiny.en/packaged|WER difference|random heads}."
    assert filled_sentence(text, runs) == "It is 0.9 [0.8, 1], at random 0."
    runs["tiny.en", "packaged"][0]["F3"] = replace(finding(0.9), measurements=(by_name(),))
    assert filled_sentence("F1 {tiny.en/packaged|F1|an/in/on, 3}", runs) == "F1 0.25"
    with pytest.raises(KeyError, match="no entry '4'"):
        filled_sentence("{tiny.en/packaged|F1|r, 4}", runs)
    with pytest.raises(KeyError, match="no criterion"):
        filled_sentence("{tiny.en/packaged|WER}", runs)


@pytest.mark.parametrize("path", sorted(replicate.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_saved_run_contains_no_machine_paths(path) -> None:
    assert not re.search(r'"/[\w.-]+/[\w.-]', path.read_text(encoding="utf-8"))
