"""Tables about SAEs of real Whisper, from the files that training, the benchmark and its audit wrote.

``python -m docs.tools.sae_tables RUNS`` writes ``docs/data/sae_training.json`` from the folders of
``python -m sae_lens_audio.pretrained``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from benchmarks.bench.markdown import table
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.findings.core.finding import format_estimate
from sae_lens_audio.benchmark.audit import load_audit
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores, load_benchmark

TRAINING = Path(__file__).resolve().parents[1] / "data" / "sae_training.json"
SHOWN = (
    "l0", "explained_variance", "cross_entropy_recovered", "wer_change", "phone_f1", "phone_probe_k1",
    "phone_probe_k16", "speaker_probe_k5", "erasure_k5",
)  # fmt: skip
MARKS = {"fails": " (fails)", "weak": " (weak)"}


def benchmark_table(path: Path) -> str:
    """Return a table of a benchmark: a row per SAE or control, a column per metric of :data:`SHOWN`. The file has the
    others, and the early checkpoints."""
    benchmark = load_benchmark(path)
    by_name = {metric.name: metric for metric in benchmark.metrics}
    metrics = [by_name[name] for name in SHOWN if benchmark.verdicts.get(name) != "fails"]
    head = ("", *(f"{metric.title}{MARKS.get(benchmark.verdicts.get(metric.name, ''), '')}" for metric in metrics))
    rows = [
        (shown_name(subject), *(_cell(subject, metric.name) for metric in metrics))
        for subject in benchmark.subjects
        if subject.kind != "seeds" and "/at-" not in subject.name
    ]
    return table(head, rows).strip() + "\n\n" + _below(benchmark)


def audit_table(path: Path) -> str:
    """Return a table of the audit: a row per metric, with its verdict and the three tests."""
    audit = load_audit(path)
    rows = [
        (m.title, m.verdict, *(f"{test.verdict}: {test.reason}" for test in (m.seeds, m.truth, m.trend)))
        for m in audit.metrics.values()
    ]
    return table(("metric", "verdict", "other seeds", "planted features", "early and late"), rows).strip()


def write_training(runs: Path, file: Path = TRAINING) -> None:
    """Write size, cost and held-out scores of every finished run."""
    rows = []
    for path in sorted(runs.glob("*/*/sae/cfg.json")):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        rows.append(
            {
                "model": path.parents[2].name,
                "name": path.parents[1].name,
                **metadata["held_out"],
                "trained_rows": metadata["trained_rows"],
                "seconds": metadata["seconds"],
                "machine": metadata["machine"],
                "hours": sum(metadata["speech_hours"].values()),
            }
        )
    write_atomic(file, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())


def training_table(path: Path) -> str:
    """Return a table of what was trained: rows, time, and scores on held-out training speech."""
    rows = [
        (
            row["model"],
            row["name"],
            f"{row['hours']:.1f}",
            f"{row['trained_rows'] / 1e6:.1f} M",
            f"{row['seconds']:.0f} s",
            f"{row['explained_variance']:.3f}",
            f"{row['l0']:.0f}",
            f"{row['dead']:.1%}",
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
    head = ("model", "SAE", "hours of speech", "rows", "time, 1 thread", "explained variance", "L0", "dead")
    return table(head, rows).strip()


def shown_name(subject: SubjectScores) -> str:
    """Return the name without block and folder of the run, in italics for controls."""
    name = re.sub(r"encoder\.blocks\.\d+-|/sae", "", subject.name)
    return f"*{name}*" if subject.kind == "control" else name


def _cell(subject: SubjectScores, metric: str) -> str:
    score = subject.scores.get(metric)
    return "" if score is None or score.estimate.value is None else format_estimate(score.estimate)


def _below(benchmark: Benchmark) -> str:
    """Return what the numbers are of."""
    counts = ", ".join(f"{benchmark.inputs[key]} {key}" for key in ("clips", "speakers", "positions", "phones"))
    return f"{benchmark.model}, `{benchmark.hook}`: {counts}."


def main() -> None:
    """Write ``sae_training.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    write_training(parser.parse_args().runs)


if __name__ == "__main__":
    main()
