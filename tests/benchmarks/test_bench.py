"""The harness: who wins in made-up times, what the table says, and that the text around it stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.bench import cuda
from benchmarks.bench.agreement import check
from benchmarks.bench.cases import OURS, Case
from benchmarks.bench.ctranslate2_model import write_ctranslate2
from benchmarks.bench.dictionaries import section
from benchmarks.bench.flops import gflop
from benchmarks.bench.linear import line_of
from benchmarks.bench.markdown import BEGIN, END, write_into
from benchmarks.bench.models import TOY, make_models
from benchmarks.bench.table import rendered
from benchmarks.bench.timing import rows_of, take_turns
from benchmarks.bench.transcription import FLOAT32, RUNTIMES, encoder_cases, real_cases
from hooked_whisper.hooked import HookedWhisper


def results() -> dict[str, object]:
    case = Case("work", {OURS: list, "slow": list, "fast": list}, ("slow", "fast"), 1.0)
    seconds = {OURS: [1.0, 1.1, 0.9], "slow": [2.0, 2.2, 1.8], "fast": [0.5, 0.5, 0.5]}
    rows = [row.as_json() for row in rows_of(case, seconds, {OURS: 2.0})]
    machine = {
        "date": "today", "commit": "abc", "cpu": "some", "vector": "avx2", "cores": 2, "threads": 1,
        "versions": {"torch": "2"}, "gflops_of_products": {"1x1x1": 3.0},
    }  # fmt: skip
    memory = [
        {"case": "work", "who": "ours, bare forward", "peak_mib": 1.0, "kept_mib": 0.0},
        {"case": "work", "who": OURS, "peak_mib": 2.0, "kept_mib": 1.0},
    ]
    return {"machine": machine, "rounds": 3, "sizes": {"tiny": rows}, "memory": {"tiny": memory}, "others_cores": 0.1}


def test_goal_is_on_the_row_of_the_fastest_peer() -> None:
    slow, fast = results()["sizes"]["tiny"]  # type: ignore[index]
    assert slow["ratio"] == pytest.approx(0.5) and slow["target"] is None and slow["met"] is None
    assert fast["ratio"] == pytest.approx(2.0) and fast["target"] == 1.0 and fast["met"] is False
    text = rendered(results())
    assert "| work | fast | 2.00 |" in text and "1 ✗" in text and "| work | ours | 2.0 | 1.0 |" in text
    assert "1 MiB beyond the bare pass, 1 MiB are kept: 1.00, at most 1.1 ✓" in text
    assert "| 1000 | 500 | 2 | 2 |" in text, "ours, theirs, GFLOP, GFLOP/s"
    json.dumps(results())


def test_each_implementation_runs_in_each_position() -> None:
    calls = {"a": 0, OURS: 0}

    def work(name: str) -> None:
        calls[name] += 1

    seconds = take_turns(Case("w", {OURS: lambda: work(OURS), "a": lambda: work("a")}, ("a",)), 4)
    assert calls == {"a": 5, OURS: 5} and all(len(s) == 4 for s in seconds.values())


def test_hand_written_text_is_preserved(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(path, "new\n")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="has no"):
        write_into(path, "new")


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", "--threads", "1", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_bench_runs_at_toy_size() -> None:
    out = run("--quick", "--only", "one attention*", "decoder*")
    assert "one attention pattern of the middle" in out and "| decoder, 32 tokens | transformers |" in out


@pytest.mark.slow
def test_all_implementations_of_a_case_agree() -> None:
    assert "encoder, torch.compile" in run("--quick")


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process() -> None:
    out = run("--size", "toy", "--rounds", "3", "--only", "every point*")
    assert "MiB beyond the bare pass" in out


def test_implementation_with_other_results_is_not_timed() -> None:
    x = torch.ones(2)
    check(Case("w", {OURS: lambda: [x], "a": lambda: (x,)}, ("a",), same=("a", "not installed")))
    with pytest.raises(AssertionError, match="w, a: "):
        check(Case("w", {OURS: lambda: [x], "a": lambda: [x + 1e-3]}, ("a",), same=("a",)))
    with pytest.raises(AssertionError, match="a keeps 2"):
        check(Case("w", {OURS: lambda: [x], "a": lambda: [x, x]}, ("a",), same=("a",)))


def test_flops_include_fused_attention() -> None:
    q = torch.randn(1, 2, 8, 4)
    assert gflop(lambda: torch.randn(100, 200) @ torch.randn(200, 300)) == pytest.approx(0.012)
    big = q.expand(100, 2, 8, 4).repeat(1, 1, 10, 1)
    counted = gflop(lambda: F.scaled_dot_product_attention(big, big, big))
    assert counted == pytest.approx(4 * 100 * 2 * 80 * 80 * 4 / 1e9, abs=1e-3)
    assert gflop(lambda: None) is None


def test_window_cost_is_fitted_by_a_line() -> None:
    def row(k: int, ms: float) -> dict[str, object]:
        return {"case": "local window, k=50", "other": f"ours, k={k}", "ours_ms": 30.0, "other_ms": ms}

    line = line_of([row(25, 25.0), row(100, 40.0), row(200, 60.0)])
    assert line is not None and line.widths == (25, 50, 100, 200)
    assert (line.start, line.slope, line.r2) == pytest.approx((20.0, 0.2, 1.0))
    assert line_of([row(25, 25.0)]) is None


def test_sae_results_of_an_earlier_run_are_rendered(tmp_path: Path) -> None:
    row = {
        "name": "ours", "version": "1", "activations_per_s": 31386.2, "peak_mb": 700.4,
        "times_as_long": {"median": 1.0, "quartiles": [1.0, 1.0]},
    }  # fmt: skip
    facts = {
        "machine": {"processor": "some", "threads": 2, "torch": "2.13"},
        "results": [{"name": "topk", "implementations": [row]}],
    }
    assert section(tmp_path / "none.json") is None
    (tmp_path / "left.json").write_text(json.dumps(facts))
    assert "| ours 1 | 31,386 | 1.00 | 1.00 to 1.00 | 700 |" in (section(tmp_path / "left.json") or "")


def test_weights_written_for_ctranslate2_are_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HookedWhisper(TOY)
    again = HookedWhisper.from_pretrained(write_ctranslate2(model, tmp_path / "model"), device="cpu")
    assert again.cfg.encoder == model.cfg.encoder and again.cfg.decoder == model.cfg.decoder
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_encoder_row_beside_ctranslate2_agrees() -> None:
    (case,) = encoder_cases(make_models("toy"))
    assert set(case.work) == {OURS, *RUNTIMES} and case.target == 0.8
    check(case)


def test_cuda_benchmark_says_that_there_is_no_device(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.main([]) == []
    assert capsys.readouterr().out.strip() == cuda.NO_DEVICE


@pytest.mark.slow
def test_cuda_cases_run_on_any_device() -> None:
    waited: list[int] = []
    rows = cuda.measure(["toy"], torch.device("cpu"), 2, 5.0, lambda: waited.append(1))
    assert {"float32", "float16", "bfloat16"} == {row["case"].rsplit(", ", 1)[1] for row in rows} and waited
    assert cuda.measure(["toy"], torch.device("cpu"), 2, 0.0, lambda: None) == [], "no time left"


@pytest.mark.real
@pytest.mark.slow
def test_transcription_rows_have_the_same_text() -> None:
    for case in real_cases():
        assert case.against == (FLOAT32,)
        check(case)
