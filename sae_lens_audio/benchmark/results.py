"""The result of a benchmark: a table, JSON, and the curve of fidelity against sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hooked_whisper._support.heatmap import line_chart
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Showing, Summary, Tabular
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.errors import ArgumentError, CheckpointError, closest
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score
from sae_lens_audio.evals.serialization import plain, read_scores, to_text

FORMAT = "sae_lens_audio/benchmark/1"
FILE = "bench.json"
KINDS = ("SAE", "checkpoint", "control", "seeds")
_SHOWN = ("l0", "explained_variance", "kl", "phone_f1", "phone_probe_k16", "erasure_k5")


@dataclass(frozen=True, eq=False, repr=False)
class SubjectScores(Showing):
    """The scores of one SAE or control.

    kind: ``"SAE"``, ``"checkpoint"``, ``"control"``, or ``"seeds"`` for a comparison of several seeds.
    """

    name: str
    kind: str
    facts: Mapping[str, Any]
    scores: Mapping[str, Score]


@dataclass(frozen=True, eq=False, repr=False)
class Benchmark(Tabular):
    """Scores of SAEs of one hook point beside controls.

    Attributes:
        model: its name. hook, hook_out: the hook points that the SAEs read and reconstruct or predict.
        inputs: clips, speakers, positions, corpus.
        metrics: meaning of the numbers, in the order of the table.
        subjects: SAEs first.
        verdicts: of the audit, by metric: ``"passes"``, ``"weak"``, ``"fails"`` or ``"not tested"``.
        notes: what was skipped, and why.
    """

    model: str
    hook: str
    hook_out: str
    inputs: Mapping[str, Any]
    metrics: Sequence[BenchmarkMetric]
    subjects: Sequence[SubjectScores]
    verdicts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def estimate(self, subject: str, metric: str) -> Estimate:
        """Return a number with its interval; undefined if it was not computed for this subject.

        Raises:
            ArgumentError: no such subject or metric; the message has similar names.
        """
        names = {s.name: s for s in self.subjects}
        for what, name, existing in (("subject", subject, names), ("metric", metric, [m.name for m in self.metrics])):
            if name not in existing:
                near = ", ".join(closest(name, existing) or existing)
                raise ArgumentError(f"no {what} {name!r} in this benchmark: there are {near}")
        score = names[subject].scores.get(metric)
        return Estimate(None) if score is None else score.estimate

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per subject: name, kind, facts, and each metric with the ends of its interval (``_low``,
        ``_high``)."""
        rows = []
        for subject in self.subjects:
            row: dict[str, Any] = {"name": subject.name, "kind": subject.kind, **subject.facts}
            for metric in self.metrics:
                if metric.name in subject.scores:
                    estimate = subject.scores[metric.name].estimate
                    row |= {
                        metric.name: estimate.value,
                        f"{metric.name}_low": estimate.low,
                        f"{metric.name}_high": estimate.high,
                    }
            rows.append(row)
        return rows

    def summary(self) -> Summary:
        where = self.hook if self.hook == self.hook_out else f"{self.hook} -> {self.hook_out}"
        rows = self.to_rows()
        shown = [
            name
            for name in _SHOWN
            if self.verdicts.get(name) != "fails" and any(row.get(name) is not None for row in rows)
        ]
        titles = {metric.name: metric.title for metric in self.metrics}
        failing = [titles[name] for name, verdict in self.verdicts.items() if verdict == "fails" and name in titles]
        notes = [", ".join(f"{name} {value}" for name, value in self.inputs.items() if isinstance(value, int))]
        if failing:
            notes.append(f"the audit rejects: {', '.join(failing)}; *: passes only parts of it")
        cells = tuple((row["name"], *(row.get(name) for name in shown)) for row in rows)
        columns = ("name", *(self._head(name) for name in shown))
        return Summary(f"Benchmark: {self.model}, {where}", (*notes, *self.notes), columns, cells)

    def _head(self, name: str) -> str:
        """Return the head of a column, with a star for a metric that passes only parts of the audit."""
        return name + ("*" if self.verdicts.get(name) == "weak" else "")

    def plot(self, *, backend: Backend = "matplotlib") -> Any:
        """Draw explained variance against the number of latents kept at each position, a line per subject.
        ``backend="plotly"`` returns a plotly figure."""
        curves = {s.name: s.scores["explained_variance"].parts for s in self.subjects if _has_curve(s)}
        if not curves:
            raise ArgumentError("no subject of this benchmark reconstructs, so there is no curve")
        lines = {
            name: ([int(key.removeprefix("k=")) for key in parts], list(parts.values()))
            for name, parts in curves.items()
        }
        return line_chart(
            lines,
            title=f"Fidelity against sparsity: {self.model}, {self.hook}",
            x="latents kept at each position",
            y="explained variance",
            backend=backend,
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; an estimate is ``[value, low, high]``."""
        return {"format": FORMAT, **plain(self)}

    def save(self, folder: str | Path) -> None:
        """Write ``bench.json``, atomically."""
        write_atomic(Path(folder) / FILE, to_text(self.to_json()).encode())


def load_benchmark(path: str | Path) -> Benchmark:
    """Read what :meth:`Benchmark.save` wrote: the folder, or its ``bench.json``.

    Raises:
        CheckpointError: the file does not exist, is not a benchmark, or is damaged.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    data = read_scores(file, (FORMAT,), "a benchmark", "the folder of a benchmark", "run the benchmark")
    try:
        return Benchmark(
            data["model"],
            data["hook"],
            data["hook_out"],
            data["inputs"],
            tuple(BenchmarkMetric(**metric) for metric in data["metrics"]),
            tuple(
                SubjectScores(s["name"], s["kind"], s["facts"], scores_from_json(s["scores"])) for s in data["subjects"]
            ),
            data["verdicts"],
            tuple(data["notes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}): run the benchmark again") from error


def scores_from_json(data: Mapping[str, Any]) -> dict[str, Score]:
    """Return scores from ``plain(scores)``.

    Raises:
        KeyError, ValueError: a score is damaged.
    """
    return {name: Score(_estimate(name, score["estimate"]), score["parts"]) for name, score in data.items()}


def _estimate(name: str, values: Any) -> Estimate:
    if not isinstance(values, list) or len(values) != 3 or any(isinstance(x, str | bool | list | dict) for x in values):
        raise ValueError(f"the estimate of {name} is {values!r}, expected [value, low, high]")
    return Estimate(*values)


def _has_curve(subject: SubjectScores) -> bool:
    return bool("explained_variance" in subject.scores and subject.scores["explained_variance"].parts)
