"""Audit metrics: score planted subjects, and compare them, seeds and checkpoints of a benchmark."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hooked_whisper.errors import ArgumentError, closest
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.audit.lenses import SeedTest, TrendTest, seed_test, trend_test, truth_test
from sae_lens_audio.benchmark.audit.results import Audit, MetricAudit
from sae_lens_audio.benchmark.families import families
from sae_lens_audio.benchmark.metric import BenchmarkMetric, MetricFamily, Score
from sae_lens_audio.benchmark.planted import HOOK, PlantedConfig, PlantedSpeech, planted_speech
from sae_lens_audio.benchmark.planted_quality import planted_quality
from sae_lens_audio.benchmark.planted_subjects import (
    TRUE,
    PlantedTraining,
    graded_names,
    graded_subjects,
    trained_subjects,
)
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores
from sae_lens_audio.benchmark.run import SHIFTED, all_metrics, score_subject
from sae_lens_audio.benchmark.store import ScoreStore
from sae_lens_audio.benchmark.subjects import AXES, PCA, RANDOM, UNTRAINED, Subject, control_subjects

_CONTROLS = (AXES, PCA, RANDOM, UNTRAINED)
COSTS = ("latency",)  # what an SAE costs says nothing about its quality
_TRUTH = _MCC, _F1, _LABELED = ("planted MCC", "planted F1", "planted, labeled")
_CHECKPOINT = re.compile(r"(?:(?P<run>.*)/)?at-(?P<share>[0-9.]+)")
Track = Callable[[Sequence[str], str], Iterable[str]]


@dataclass(frozen=True)
class PlantedPanel:
    """Planted activations and what is scored on them: graded copies of the true dictionary, trained SAEs, controls."""

    config: PlantedConfig = field(default_factory=PlantedConfig)
    training: PlantedTraining = field(default_factory=PlantedTraining)
    seed: int = 0

    @cached_property
    def speech(self) -> PlantedSpeech:
        return planted_speech(self.config, self.seed)

    @cached_property
    def names(self) -> list[str]:
        return [*graded_names(), *self.training.plans(len(self.speech.features)), *_CONTROLS]

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """All subjects by name; trains SAEs when first read."""
        graded, trained = graded_subjects(self.speech, self.seed), trained_subjects(self.speech, self.training)
        first = {subject.name: subject.basis for subject in trained if subject.kind == "SAE"}
        controls = control_subjects(HOOK, self.speech.fitted, first, seed=self.seed)
        return {subject.name: subject for subject in (*graded, *trained, *controls)}

    def scores(
        self,
        scored_by: Sequence[MetricFamily] | None = None,
        store: ScoreStore | None = None,
        track: Track = lambda names, what: names,
    ) -> dict[str, dict[str, float]]:
        """Return planted MCC and F1 and all scores of each subject.

        store: scores of an interrupted audit, with which it resumes.
        """
        store = store or ScoreStore()
        measured = {}
        for name in track(self.names, "planted subjects"):
            scores = store.get(name, lambda n=name: self._measure(n, scored_by))  # type: ignore[misc]
            measured[name] = {key: _value(score) for key, score in scores.items()}
        return measured

    def benchmark(self, scores: Mapping[str, Mapping[str, float]]) -> Benchmark:
        """Return the trained SAEs and the controls as a benchmark."""
        plans = self.training.plans(len(self.speech.features))
        rows = [
            SubjectScores(
                name,
                "control" if name in _CONTROLS else "SAE",
                {},
                {key: Score(Estimate(x)) for key, x in scores[name].items()},
            )
            for name in (*plans, *_CONTROLS)
        ]
        saes = ", ".join(self.training.seeds_of(len(self.speech.features)))
        rows.append(SubjectScores("seeds", "seeds", {"saes": saes}, {}))
        return Benchmark("planted", HOOK, HOOK, {}, (), rows)

    def key(self, scored_by: Sequence[MetricFamily]) -> str:
        """Return a digest of what the scores depend on: the activations, the subjects, and the code of the metrics."""
        modules = {type(family).__module__ for family in scored_by} | {
            PlantedPanel.__module__,
            planted_speech.__module__,
        }
        sources = [inspect.getsource(sys.modules[name]) for name in sorted(modules)]
        text = repr((self.config, self.training, self.seed, scored_by, sources))
        return hashlib.sha256(text.encode()).hexdigest()

    def _measure(self, name: str, scored_by: Sequence[MetricFamily] | None) -> dict[str, Score]:
        subject = self.subjects[name]
        if name in _CONTROLS:
            return score_subject(subject, self.speech.data, scored_by)
        quality = planted_quality(subject, self.speech)
        values = {_MCC: quality.mcc, _F1: quality.f1, _LABELED: quality.labeled}
        truth = {key: Score(Estimate(value)) for key, value in values.items()}
        return truth | score_subject(subject, self.speech.data, scored_by)


def audit_metrics(
    benchmark: Benchmark | None = None,
    seeds: Sequence[Sequence[str]] = (),
    panel: PlantedPanel | None = None,
    scored_by: Sequence[MetricFamily] | None = None,
    *,
    store: ScoreStore | None = None,
    track: Track = lambda names, what: names,
) -> Audit:
    """Audit every metric that judges an SAE.

    A family that uses labels is compared with the recovery of the features that labels determine, others with that of
    all features.

    Args:
        benchmark: scores of SAEs of several seeds, of other settings, of controls, and of checkpoints, which are called
            ``RUN/at-SHARE`` beside ``RUN/sae``. Without it, the SAEs trained on planted activations.
        seeds: names of SAEs that differ only in their seed, for each setting of several seeds. Default: those that the
            benchmark itself compared.
        panel: planted activations and subjects.
        scored_by: families to audit; by default all.

    Raises:
        ArgumentError: ``seeds`` has an unknown name.
    """
    panel, scored_by = panel or PlantedPanel(), tuple(families() if scored_by is None else scored_by)
    scores = panel.scores(scored_by, store, track)
    quality = {name: (values[_MCC] + values[_F1]) / 2 for name, values in scores.items() if _MCC in values}
    labeled = {name: scores[name][_LABELED] for name in quality}
    damage = {name: name.split()[0] for name in quality}
    roles = _Roles.of(panel.benchmark(scores) if benchmark is None else benchmark, seeds)
    measured = {m: labeled if family.needs_labels else quality for family in scored_by for m in family.metrics}
    attached = [m for m in all_metrics() if benchmark is not None and any(m.name in s.scores for s in roles.subjects)]
    audited = {}
    for metric in dict.fromkeys([*measured, *attached]):
        if metric.better == "neither" or metric.name in COSTS:
            continue
        truth = truth_test(
            {name: values.get(metric.name, np.nan) for name, values in scores.items()},
            measured.get(metric, quality), damage, metric.better, TRUE,
        )  # fmt: skip
        seeded, trend = roles.tests(metric)
        audited[metric.name] = MetricAudit(metric.name, metric.title, seeded, truth, trend)
    rows = {
        name: {"quality": quality[name], **{key: x for key, x in values.items() if key in (*_TRUTH, *audited)}}
        for name, values in scores.items()
        if name in quality
    }
    return Audit(audited, _inputs(panel, roles, benchmark), rows)


@dataclass(frozen=True, eq=False)
class _Roles:
    """The subjects of a benchmark by their role: settings (names of their seeds), trajectories, controls."""

    subjects: tuple[SubjectScores, ...]
    settings: Mapping[str, Sequence[str]]
    trajectories: Sequence[Mapping[float, str]]
    controls: Sequence[str]

    @classmethod
    def of(cls, benchmark: Benchmark, seeds: Sequence[Sequence[str]]) -> _Roles:
        subjects = tuple(s for s in benchmark.subjects if s.kind != "seeds")
        names = [s.name for s in subjects]
        if not seeds:
            compared = [s.facts["saes"].split(", ") for s in benchmark.subjects if s.kind == "seeds"]
            seeds = [group for group in compared if set(group) <= set(names)]
        for name in (name for group in seeds for name in group):
            if name not in names:
                near = ", ".join(closest(name, names) or names)
                raise ArgumentError(f"no SAE {name!r} in this benchmark: there are {near}")
        trajectories = _trajectories(names)
        early = {name for t in trajectories for share, name in t.items() if share < 1}
        of_seeds = {name for group in seeds for name in group}
        saes = [s.name for s in subjects if s.kind == "SAE" and s.name not in early | of_seeds]
        settings = {group[0]: tuple(group) for group in seeds} | {name: (name,) for name in saes}
        controls = [s.name for s in subjects if s.kind == "control" and not s.name.endswith(SHIFTED)]
        return cls(subjects, settings, trajectories, controls)

    def tests(self, metric: BenchmarkMetric) -> tuple[SeedTest, TrendTest]:
        values = {s.name: _value(s.scores[metric.name]) for s in self.subjects if metric.name in s.scores}
        settings = {key: [values[n] for n in group if n in values] for key, group in self.settings.items()}
        seeded = seed_test(settings, [values[n] for n in self.controls if n in values], metric.better)
        trajectories = [
            {share: values[n] for share, n in trajectory.items() if n in values} for trajectory in self.trajectories
        ]
        return seeded, trend_test(trajectories, metric.better, seeded.sd, seeded.seeds)


def _trajectories(names: Sequence[str]) -> list[dict[float, str]]:
    """Return the checkpoints of each run and its finished SAE, by share of the steps."""
    runs: dict[str, dict[float, str]] = {}
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            runs.setdefault(f"{match['run']}/sae" if match["run"] else "sae", {})[float(match["share"])] = name
    return [dict(sorted({**early, 1.0: final}.items())) for final, early in runs.items() if final in names]


def _value(score: Score) -> float:
    return float("nan") if score.estimate.value is None else float(score.estimate.value)


def _inputs(panel: PlantedPanel, roles: _Roles, benchmark: Benchmark | None) -> dict[str, Any]:
    speech = panel.speech
    n = sum(len(names) for names in roles.settings.values() if len(names) > 1)
    where = "planted activations" if benchmark is None else f"{benchmark.model}, {benchmark.hook}"
    return {
        "planted": f"{len(speech.features)} features in {speech.config.d} dimensions, {speech.data.n_rows} positions, "
        f"{len(panel.names)} subjects",
        "seeds and checkpoints": f"of {where}: {n} SAEs of several seeds, {len(roles.settings)} settings, "
        f"{len(roles.controls)} controls, checkpoints of {len(roles.trajectories)} trainings",
        "settings": {key: list(names) for key, names in roles.settings.items()},
        "speech": {} if benchmark is None else {k: x for k, x in benchmark.inputs.items() if isinstance(x, int | str)},
    }
