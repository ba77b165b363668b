"""One self-contained page about a benchmark: table, curve, phones, and what each metric means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hooked_whisper._support.showing import format_cell
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.findings.core.figures import STYLE
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.report.figures import Picture, picture
from sae_lens_audio.benchmark.metric import BenchmarkMetric
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores

PAGE = "bench.html"
_BY_PHONE = "phone_f1"


@dataclass(frozen=True)
class ScoreCell:
    """A number of the table: text, interval, number to sort by, and whether it is the best of the SAEs."""

    text: str
    interval: str
    number: float | None
    best: bool


@dataclass(frozen=True)
class ScoreRow:
    """One subject, with a cell for each metric. facts: architecture, number of latents, and the like."""

    name: str
    kind: str
    facts: str
    cells: tuple[ScoreCell, ...]


@dataclass(frozen=True)
class PhoneRow:
    """F1 of each phone of one subject, in the order of the columns; ``None`` where it was not scored."""

    name: str
    values: tuple[float | None, ...]


def render_page(benchmark: Benchmark) -> str:
    """Return the HTML of the page. It needs no other file and no network."""
    metrics = benchmark.metrics
    phones = sorted(
        {p for s in benchmark.subjects for p in (s.scores[_BY_PHONE].parts if _BY_PHONE in s.scores else ())}
    )
    return str(
        _environment()
        .get_template("bench.html.j2")
        .render(
            b=benchmark,
            where=benchmark.hook
            if benchmark.hook == benchmark.hook_out
            else f"{benchmark.hook} → {benchmark.hook_out}",
            metrics=metrics,
            rows=[_row(subject, benchmark) for subject in benchmark.subjects],
            phones=phones,
            by_phone=[_phone_row(subject, phones) for subject in benchmark.subjects if _by_phone(subject)],
            curve=_curve(benchmark),
            inputs=[(k, format_cell(v)) for k, v in benchmark.inputs.items() if k != "options"],
            verdicts=benchmark.verdicts,
        )
    )


def write_page(benchmark: Benchmark, folder: str | Path) -> None:
    """Write ``bench.html``, atomically."""
    write_atomic(Path(folder) / PAGE, render_page(benchmark).encode())


@cache
def _environment() -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("sae_lens_audio.benchmark"), PackageLoader("hooked_whisper.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markup"] = Markup  # for our own SVG only
    return environment


def _row(subject: SubjectScores, benchmark: Benchmark) -> ScoreRow:
    cells = tuple(_cell(subject, metric, benchmark) for metric in benchmark.metrics)
    facts = ", ".join(f"{name} {format_cell(value)}" for name, value in subject.facts.items())
    return ScoreRow(subject.name, subject.kind, facts, cells)


def _cell(subject: SubjectScores, metric: BenchmarkMetric, benchmark: Benchmark) -> ScoreCell:
    score = subject.scores.get(metric.name)
    if score is None or score.estimate.value is None:
        return ScoreCell("", "", None, False)
    value = float(score.estimate.value)
    comparable = subject.kind == "SAE" and benchmark.verdicts.get(metric.name) != "fails"
    best = comparable and value == _best(metric, benchmark.subjects)
    return ScoreCell(_short(value), _interval(score.estimate), value, best)


def _best(metric: BenchmarkMetric, subjects: Sequence[SubjectScores]) -> float | None:
    values = [s.scores[metric.name].estimate.value for s in subjects if s.kind == "SAE" and metric.name in s.scores]
    defined = [float(value) for value in values if value is not None]
    if len(defined) < 2 or metric.better == "neither":
        return None
    return max(defined) if metric.better == "higher" else min(defined)


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_short(estimate.low)} to {_short(estimate.high)}"


def _short(value: float | int) -> str:
    """Return a number with three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _phone_row(subject: SubjectScores, phones: Sequence[str]) -> PhoneRow:
    return PhoneRow(subject.name, tuple(_by_phone(subject).get(phone) for phone in phones))


def _by_phone(subject: SubjectScores) -> Mapping[str, float]:
    return subject.scores[_BY_PHONE].parts if _BY_PHONE in subject.scores else {}


def _curve(benchmark: Benchmark) -> Picture | None:
    if not any("explained_variance" in s.scores and s.scores["explained_variance"].parts for s in benchmark.subjects):
        return None
    import matplotlib

    with matplotlib.rc_context(STYLE):  # the colors that the page replaces
        figure = benchmark.plot()
    figure.set_label(f"Explained variance against latents kept at each position. {benchmark.model}, {benchmark.hook}")
    return picture(figure, "curve")
