"""The audit: a metric that is right passes, a random one and an inverted one fail, and what was not tested is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import ArgumentError, CheckpointError
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark import (
    Benchmark,
    BenchmarkData,
    BenchmarkMetric,
    Score,
    ScoreStore,
    Subject,
    SubjectScores,
)
from sae_lens_audio.benchmark.audit import Audit, load_audit
from sae_lens_audio.benchmark.audit.__main__ import main
from sae_lens_audio.benchmark.audit.criteria import (
    SeedTest,
    TrendTest,
    TruthTest,
    overall,
    seed_test,
    trend_test,
    truth_test,
)
from sae_lens_audio.benchmark.audit.scoring import PlantedPanel, audit_metrics
from sae_lens_audio.benchmark.planted import PlantedConfig
from sae_lens_audio.benchmark.planted_quality import planted_quality
from sae_lens_audio.benchmark.planted_subjects import PlantedTraining

PANEL = PlantedPanel(
    PlantedConfig(d=48, words=14, traits=3, background=9, speakers=3, fitted_speakers=3, clips=1, words_per_clip=6),
    PlantedTraining(widths=(1.0, 2.0), k=(8,), seeds=(0, 1, 2), shares=(1 / 4, 1.0), steps=60, batch=64),
)
RIGHT, INVERTED, DRAWN, LEVEL = (
    BenchmarkMetric("right", "right", "higher", "share", ""),
    BenchmarkMetric("inverted", "inverted", "lower", "share", ""),
    BenchmarkMetric("drawn", "drawn", "higher", "share", ""),
    BenchmarkMetric("level", "level", "neither", "share", ""),
)


@dataclass(frozen=True)
class Toy:
    """Planted quality itself, the same with the wrong sign, random numbers, and a number that judges nothing."""

    seed: int = 1
    metrics = (RIGHT, INVERTED, DRAWN, LEVEL)
    needs_decode = False
    needs_labels = False

    def measure(self, subject: Subject, data: BenchmarkData) -> Mapping[str, Score]:
        quality = planted_quality(subject, PANEL.speech).quality if subject.kind != "control" else 0.0
        noise = float(np.random.default_rng([self.seed, *subject.name.encode()]).random())
        return {m.name: Score(Estimate(x)) for m, x in zip(self.metrics, (quality, quality, noise, 1.0), strict=True)}


def scored(name: str, kind: str, value: float, **facts: str) -> SubjectScores:
    scores = {m.name: Score(Estimate(value)) for m in (RIGHT, INVERTED)}
    drawn = float(np.random.default_rng(list(name.encode())).random())
    return SubjectScores(name, kind, facts, scores | {"drawn": Score(Estimate(drawn))})


def bench() -> Benchmark:
    """Three seeds with early copies that are worse, another setting, and controls below all."""
    rows = [scored("pca", "control", 0.3), scored("random directions", "control", 0.2), scored("wide/sae", "SAE", 0.95)]
    for seed, jitter in enumerate((0.0, 0.004, -0.004)):
        for share, value in (("sae", 0.8), ("at-0.25", 0.6), ("at-0.0625", 0.4)):
            rows.append(scored(f"topk-{seed}/{share}", "SAE", value + jitter))
    rows.append(SubjectScores("3 seeds", "seeds", {"saes": ", ".join(f"topk-{s}/sae" for s in range(3))}, {}))
    return Benchmark("toy", "hook", "hook", {"clips": 3}, (RIGHT, INVERTED, DRAWN), rows)


@pytest.fixture(scope="module")
def audit() -> Audit:
    return audit_metrics(bench(), panel=PANEL, scored_by=(Toy(),))


def test_a_right_metric_passes_a_random_one_and_an_inverted_one_fail(audit: Audit) -> None:
    assert audit.verdicts == {"right": "passes", "inverted": "fails", "drawn": "fails"}
    assert audit["right"].truth.correlation == pytest.approx(1)
    assert audit["inverted"].truth.correlation == pytest.approx(-1) and audit["inverted"].trend.reversed
    assert abs(audit["drawn"].truth.correlation or 0) < 0.5


def test_the_roles_of_subjects_follow_their_names(audit: Audit) -> None:
    seeds, trend = audit["right"].seeds, audit["right"].trend
    assert seeds.seeds == 3 and seeds.sd == pytest.approx(0.004)
    assert seeds.settings == pytest.approx(0.15) and seeds.control == pytest.approx(0.5)
    assert list(trend.means) == ["0.0625", "0.25", "1"] and trend.seeds == 3 and trend.gain == pytest.approx(0.4)


def test_smallest_difference_is_students(audit: Audit) -> None:
    assert audit["right"].seeds.smallest == pytest.approx(4.3027 * 2**0.5 * 0.004, rel=1e-4)
    assert audit["right"].trend.smallest == pytest.approx(2.4469 * (2 / 3) ** 0.5 * 0.004, rel=1e-4)


def test_an_audit_is_a_table_and_survives_its_file(audit: Audit, tmp_path: Path) -> None:
    audit.save(tmp_path / "audit.json")
    again = load_audit(tmp_path / "audit.json")
    assert again.to_json() == audit.to_json() and repr(again) == repr(audit)
    assert len(audit.to_pandas()) == 3 and "correlation" in audit._repr_html_() and "truth" in repr(audit)
    assert "planted quality" in repr(audit["right"]) and "above the best control" in repr(audit["right"])
    assert audit.planted["true"]["quality"] == pytest.approx(audit.planted["true"]["right"])


def test_an_interrupted_audit_resumes(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path, "key")
    first = PANEL.scores((Toy(),), store)
    assert PANEL.scores((), store) == first  # nothing is measured again


def test_without_a_benchmark_seeds_and_checkpoints_are_planted() -> None:
    audit = audit_metrics(panel=PANEL, scored_by=(Toy(),))
    right = audit["right"]
    assert right.verdict == "passes" and audit.verdicts["inverted"] == audit.verdicts["drawn"] == "fails"
    assert right.seeds.seeds == 3 and right.trend.seeds == 3 and list(right.trend.means) == ["0.25", "1"]
    assert "planted activations" in audit.inputs["seeds and checkpoints"]


def test_a_metric_of_the_real_model_has_no_truth() -> None:
    """Scores that planted activations cannot have are tested on seeds and checkpoints, and the reason is given."""
    test = truth_test({}, {"a": 1.0, "b": 0.5}, {"a": "true", "b": "mixed"}, "higher", "true")
    assert test.verdict == "not tested" and "no such score" in test.reason


def test_unknown_seeds_and_metrics_are_refused(audit: Audit) -> None:
    with pytest.raises(ArgumentError, match="topk-1/sae"):
        audit_metrics(bench(), [["topk-1/sa"]], PANEL, (Toy(),))
    with pytest.raises(ArgumentError, match="right"):
        audit["rigth"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_audit(file)
    for text, message in (("[", "not JSON"), ("{}", "not an audit")):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_audit(file)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0.1, 10), st.floats(-5, 5))
def test_seed_verdicts_do_not_depend_on_units(values: Sequence[float], scale: float, shift: float) -> None:
    if np.std(values) < 1e-3:
        return
    first = seed_test({"a": values, "b": [3.0]}, [-9.0], "higher")
    moved = seed_test(
        {"a": [scale * x + shift for x in values], "b": [scale * 3 + shift]}, [shift - 9 * scale], "higher"
    )
    assert first.verdict == moved.verdict
    flipped = seed_test({"a": [-x for x in values], "b": [-3.0]}, [9.0], "lower")
    assert flipped.verdict == first.verdict and flipped.control == pytest.approx(first.control)


def test_seed_verdicts() -> None:
    seeds = [0.50, 0.51, 0.52]
    assert seed_test({"a": seeds, "b": [0.9]}, [0.1], "higher").verdict == "passes"
    assert seed_test({"a": seeds, "b": [0.52]}, [0.1], "higher").verdict == "weak"
    assert seed_test({"a": seeds, "b": [0.52]}, [0.49], "higher").verdict == "fails"
    assert seed_test({"a": seeds}, [0.9, 0.1], "higher").control == pytest.approx(-0.39)
    assert seed_test({"a": seeds}, [0.9, 0.6], "lower").control == pytest.approx(0.09)
    assert seed_test({"a": [0.5], "b": [0.9]}, [0.1], "higher").verdict == "not tested"


def test_trend_verdicts() -> None:
    def runs(*values: float) -> list[dict[float, float]]:
        shares = (1 / 16, 1 / 4, 1.0)
        return [{s: v + e for s, v in zip(shares, values, strict=True)} for e in (-0.01, 0.0, 0.01)]

    assert trend_test(runs(0.1, 0.4, 0.8), "higher").verdict == "passes"
    assert trend_test(runs(0.1, 0.8, 0.799), "higher").verdict == "passes"  # a step back within the spread
    assert trend_test(runs(0.1, 0.8, 0.4), "higher").verdict == "fails"
    assert trend_test(runs(0.1, 0.1, 0.105), "higher").verdict == "weak"
    assert trend_test(runs(0.8, 0.4, 0.1), "higher").reversed
    assert trend_test(runs(0.8, 0.4, 0.1), "lower").verdict == "passes"
    assert trend_test([{0.25: 0.1, 1.0: 0.9}], "higher", 0.01, 3).verdict == "passes"
    assert trend_test([{0.25: 0.1, 1.0: 0.9}], "higher").verdict == "not tested"
    assert trend_test([], "higher").verdict == "not tested"


def test_the_verdict_combines_three_tests() -> None:
    def verdict(seeds: str, truth: str, trend: str, reversed_trend: bool = False) -> str:
        return overall(SeedTest(seeds), TruthTest(truth), TrendTest(trend, reversed=reversed_trend))  # type: ignore[arg-type]

    assert verdict("passes", "passes", "passes") == "passes"
    assert verdict("passes", "not tested", "passes") == "passes"
    assert verdict("not tested", "passes", "not tested") == "weak"
    assert verdict("fails", "passes", "passes") == "weak"
    assert verdict("passes", "fails", "passes") == "fails"
    assert verdict("fails", "passes", "fails") == "fails"
    assert verdict("passes", "passes", "fails", reversed_trend=True) == "fails"
    assert verdict("not tested", "not tested", "not tested") == "not tested"


def test_the_command_audits_a_finished_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench().save(tmp_path / "bench")
    monkeypatch.setattr("sae_lens_audio.benchmark.audit.scoring.PlantedPanel", lambda *config, seed: PANEL)
    monkeypatch.setattr("sae_lens_audio.benchmark.families", lambda: (Toy(),))
    arguments = ["--bench", str(tmp_path / "bench"), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    audit = load_audit(tmp_path / "work" / "audit.json")
    assert audit.verdicts["right"] == "passes" and "toy, hook" in audit.inputs["seeds and checkpoints"]
    stored = sorted(path.stat().st_mtime_ns for path in (tmp_path / "work" / "planted").iterdir())
    assert main([*arguments, "--seeds", "topk-0/sae", "topk-1/sae"]) == 0
    assert load_audit(tmp_path / "work" / "audit.json")["right"].seeds.seeds == 2
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "work" / "planted").iterdir()) == stored


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bench", "x", "--others", "y"], "leave out --others"),
        (["--bench", "x", "--audio", "y"], "leave out --audio"),
        (["--audio", "y"], "give SAEs with --seeds"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
