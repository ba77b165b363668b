"""The status rule, and the JSON round trip."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings import (
    Axis,
    Control,
    Criterion,
    Estimate,
    Example,
    Finding,
    Measurement,
    Span,
    Table,
    load_findings,
    save_findings,
)
from hooked_whisper.findings.core.finding import format_estimate, format_number
from hooked_whisper.findings.core.serialization import from_dict, to_dict

HOLDS = Estimate(0.95, 0.92, 0.98)
BARELY = Estimate(0.91, 0.85, 0.97)
FAILS = Estimate(0.4, 0.3, 0.5)


def criterion(name: str, estimate: Estimate, direction="at least", role="claim") -> Criterion:
    return Criterion(name, estimate, 0.9, direction, role=role)


def finding(*estimates: Estimate, controls: tuple[Control, ...] = (), **more) -> Finding:
    criteria = tuple(criterion(f"c{k}", e) for k, e in enumerate(estimates)) + more.pop("gates", ())
    return Finding("F0", "t", "claim", "protocol", "m", {}, {}, criteria, controls, **more)


def test_every_criterion_clear_is_reproduced() -> None:
    assert finding(HOLDS, HOLDS).status == "reproduced"


def test_an_interval_across_the_threshold_is_partly() -> None:
    result = finding(HOLDS, BARELY)
    assert result.criteria[1].passed and not result.criteria[1].clear
    assert result.status == "partly"
    assert "c1" in result.status_reason


def test_one_failure_in_three_is_partly_and_two_are_not_reproduced() -> None:
    assert finding(HOLDS, HOLDS, FAILS).status == "partly"
    assert finding(HOLDS, FAILS, FAILS).status == "not reproduced"
    assert finding(HOLDS, FAILS).status == "not reproduced"


def test_control_that_meets_the_criteria_fails_the_finding() -> None:
    good = Control("untrained", "", {"c0": FAILS, "c1": FAILS})
    half = Control("half", "", {"c0": HOLDS, "c1": FAILS})
    bad = Control("shuffled", "", {"c0": HOLDS, "c1": HOLDS})
    partial = Control("only one criterion", "", {"c0": HOLDS})
    assert finding(HOLDS, HOLDS, controls=(good, half)).status == "reproduced"
    assert finding(HOLDS, HOLDS, controls=(good, bad)).status == "not reproduced"
    assert finding(HOLDS, HOLDS, controls=(partial,)).status == "not reproduced"
    assert "only one criterion" in finding(HOLDS, HOLDS, controls=(partial,)).status_reason


def test_control_with_undefined_or_no_values_does_not_count() -> None:
    blank = Control("blank", "", {"c0": Estimate(None), "c1": HOLDS})
    nothing = Control("nothing", "", {})
    assert finding(HOLDS, HOLDS, controls=(blank, nothing)).status == "reproduced"


def test_unmet_gate_gives_no_verdict() -> None:
    gate = criterion("clips", Estimate(0.5), role="gate")
    result = finding(HOLDS, gates=(gate,))
    assert result.status == "measured, no verdict" and "clips" in result.status_reason
    assert result.deciding is gate
    assert finding(Estimate(None), gates=(gate,)).status == "not testable"
    assert result.statistic is not None and result.statistic.name == "c0"


def test_status_without_criteria_with_a_reason_and_with_an_error() -> None:
    assert finding().status == "not testable"
    assert finding(HOLDS, reason_untestable="no truth").status == "not testable"
    assert finding(HOLDS, error="ValueError: x").status == "error"


def test_deciding_criterion_is_the_one_that_failed() -> None:
    good = Criterion("good", Estimate(1.0, 0.9, 1.1), 0.5, "at least")
    unclear = Criterion("unclear", Estimate(0.6, 0.4, 0.8), 0.5, "at least")
    bad = Criterion("bad", Estimate(0.1), 0.5, "at least")

    def of(*criteria: Criterion) -> str:
        deciding = Finding("F0", "t", "c", "p", "m", {}, {}, criteria=criteria).deciding
        assert deciding is not None
        return deciding.name

    assert of(good, unclear, bad) == "bad" and of(good, unclear) == "unclear" and of(good) == "good"


def test_undefined_values_meet_no_criterion() -> None:
    assert Estimate(math.nan).value is None
    for direction in ("at least", "at most"):
        assert not criterion("c", Estimate(None), direction).passed
    assert Estimate.of(0.5, [math.nan]).low is None


def test_at_most_uses_the_upper_end_of_the_interval() -> None:
    assert criterion("c", Estimate(0.5, 0.1, 0.95), "at most").passed
    assert not criterion("c", Estimate(0.5, 0.1, 0.95), "at most").clear
    assert criterion("c", Estimate(0.5, 0.1, 0.8), "at most").clear


def test_a_control_must_measure_a_criterion_and_names_must_differ() -> None:
    with pytest.raises(ValueError, match=r"\['other'\].*\['c0'\]"):
        finding(HOLDS, controls=(Control("x", "", {"other": HOLDS}),))
    with pytest.raises(ValueError, match=r"\['a', 'a'\]"):
        Finding("F0", "t", "c", "p", "m", {}, {}, (criterion("a", HOLDS), criterion("a", HOLDS)))


values = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32))
estimates = st.builds(Estimate, values, values, values)


@given(st.lists(estimates, max_size=4), st.lists(estimates, max_size=4))
def test_status_follows_the_rule_and_survives_json(ours: list[Estimate], theirs: list[Estimate]) -> None:
    control = Control("k", "", {f"c{i}": e for i, e in enumerate(theirs[: len(ours)])})
    result = finding(*ours, controls=(control,))
    assert result.status in ("reproduced", "partly", "not reproduced", "not testable")
    assert result.deciding is None or result.deciding in result.criteria
    again = from_dict(json.loads(json.dumps(to_dict(result), allow_nan=False)))
    assert again.status == result.status and again.status_reason == result.status_reason
    assert again.criteria == result.criteria and again.controls == result.controls


def full_finding() -> Finding:
    measurement = Measurement(
        "WER",
        (Axis("rows", ("all", "clip")), Axis("window", (10, 20, 50), "positions")),
        np.array([[1, 0.5, math.nan], [1, 2, 3]]),
    )
    scalar = Measurement("scalar", (), np.array(3.0), "nats")
    example = Example("u1", "sp", "a b", (("full", "a b"), ("cut", "a")), (Span(0.1, 0.2, "b"),), "note")
    return finding(
        HOLDS,
        BARELY,
        measurements=(measurement, scalar),
        examples=(example,),
        tables=(Table("t", "s", ("x",), (("1",),)),),
        published=(Table("p", "s", ("x", "y"), (("1", "2"),)),),
        published_summary="short",
        notes=("n",),
        extra={"array": np.arange(3), "nan": math.nan},
    )


def test_round_trip_of_a_full_finding(tmp_path) -> None:
    path = tmp_path / "deep" / "findings.json"
    result = full_finding()
    save_findings(path, [result], version="1", number=math.inf)
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    (again,) = load_findings(path)
    assert to_dict(again) == to_dict(result)
    assert math.isnan(again.measurement("WER").values[0, 2])
    assert again.measurement("WER").at(rows="clip").tolist() == [1, 2, 3]
    assert again.measurement("WER").at(window=20, rows="all") == 0.5
    assert [p.name for p in path.parent.iterdir()] == ["findings.json"]


def test_a_foreign_file_is_refused(tmp_path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected .hooked_whisper/findings/1"):
        load_findings(tmp_path / "x.json")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "findings.json"
    save_findings(path, [])
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError):
        save_findings(path, [full_finding()])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_measurements_check_their_axes() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Measurement("m", (Axis("a", (1, 2)),), np.zeros(3))
    with pytest.raises(KeyError):
        full_finding().measurement("nope")
    with pytest.raises(KeyError):
        full_finding().measurement("WER").at(nope=1)


def test_numbers_are_formatted_with_three_digits() -> None:
    assert [format_number(x) for x in (None, 0.0, 100.0, 0.12345, 1e-9, 1234.5)] == [
        "–",
        "0",
        "100",
        "0.123",
        "1.0e-09",
        "1.2e+03",
    ]
    assert format_estimate(Estimate(0.5, 0.25, 1.0)) == "0.5 [0.25, 1]"
    assert format_estimate(Estimate(0.5)) == "0.5"
