"""Steering of features: foils fit the dictionary, and the verdict needs whole intervals over clips or speakers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from whisper.tokenizer import get_tokenizer

from benchmarks.feature_steering.cases import CONSONANTS, Case, Neighbors
from benchmarks.feature_steering.edits import EDITS
from benchmarks.feature_steering.estimates import MEASURES, estimate, summarize
from benchmarks.feature_steering.outcomes import fate

CASE = Case("clip", "speaker", "seat", "sheet", "S", "SH", 1, 1, 0, start=20, stop=30, away=60)


def test_foils_differ_in_one_consonant_and_are_no_homophones() -> None:
    english: Any = SimpleNamespace(tokenizer=get_tokenizer(False))
    neighbors = Neighbors(english)
    assert ("SH", "sheet") in neighbors.foils("seat", "S")
    assert ("M", "meet") in neighbors.foils("seat", "S") and ("M", "meat") in neighbors.foils("seat", "S")
    assert neighbors.foils("seat", "K") == []  # the word has no such phone
    assert neighbors.foils("sea", "S") == []  # too short
    assert all(other in CONSONANTS and other != "S" for other, _ in neighbors.foils("seat", "S"))


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("the seat was not there", ("seat", 0.0)),
        ("the sheet was not there", ("sheet", 0.0)),
        ("the was not there", ("", 0.0)),
        ("the sheet is not there", ("sheet", 0.25)),
        ("a seat was not there now", ("seat", 0.25)),
        ("", ("", 1.0)),
    ],
)
def test_fate_of_a_word_and_of_the_others(edited: str, expected: tuple[str, float]) -> None:
    assert fate("the seat was not there", 1, edited) == expected


def test_intervals_resample_units_not_cases() -> None:
    values = np.array([0.0, 0, 0, 0, 1, 1, 1, 1] * 5)
    by_case = estimate(values, [str(k) for k in range(40)])
    by_clip = estimate(values, [str(k // 4) for k in range(40)])
    assert by_case.value == by_clip.value == 0.5
    assert by_clip.row[2] - by_clip.row[1] > 1.5 * (by_case.row[2] - by_case.row[1])


def record(clip: int, **shares: float) -> dict[str, Any]:
    outcomes = {edit: dict.fromkeys(MEASURES, 0.0) for edit in EDITS}
    outcomes["push"] |= {"foil": shares["foil"], "others_changed": shares["others"]}
    outcomes["erase"]["logprob"] = shares["logprob"]
    case = CASE.to_dict() | {"clip": str(clip), "speaker": "one"}
    return {"case": case, "outcomes": outcomes}


@pytest.mark.parametrize(
    ("shares", "met"),
    [
        ({"foil": 1.0, "others": 0.0, "logprob": -2.0}, [True, True, True]),
        ({"foil": 0.0, "others": 0.2, "logprob": -0.1}, [False, False, False]),
    ],
)
def test_criteria(shares: dict[str, float], met: list[bool]) -> None:
    summary = summarize([record(clip, **shares) for clip in range(20)])
    assert [criterion["met"] for criterion in summary["criteria"]] == met
    assert summary["resampled"] == "clips" and summary["cases"] == 20


def test_a_criterion_needs_the_whole_interval() -> None:
    mixed = [record(clip, foil=float(clip % 4 == 0), others=0.0, logprob=-1.0) for clip in range(20)]
    first = summarize(mixed)["criteria"][0]
    assert first["estimate"][0] == 0.25 and not first["met"]
