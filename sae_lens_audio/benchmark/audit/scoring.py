"""Audit metrics: score planted subjects, and compare them, seeds and checkpoints of a benchmark."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper.errors import ArgumentError, closest
from hooked_whisper.findings.core.finding import Estimate
from sae_lens_audio.benchmark.audit.criteria import SeedTest, TrendTest, TruthTest, seed_test, trend_test, truth_test
from sae_lens_audio.benchmark.audit.results import Audit, MetricAudit
from sae_lens_audio.benchmark.families import families
from sae_lens_audio.benchmark.metric import BenchmarkMetric, MetricFamily, Score
from sae_lens_audio.benchmark.planted import (
    HOOK,
    SPEAKERS_AND_NOISE,
    PlantedConfig,
    PlantedSpeech,
    planted_speech,
)
from sae_lens_audio.benchmark.planted_quality import planted_quality
from sae_lens_audio.benchmark.planted_subjects import (
    TRUE,
    PlantedTraining,
    graded_names,
    graded_subjects,
    trained_subjects,
)
from sae_lens_audio.benchmark.probing_speakers import SpeakerProbing
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores
from sae_lens_audio.benchmark.run import SHIFTED, all_metrics, score_subject
from sae_lens_audio.benchmark.store import ScoreStore
from sae_lens_audio.benchmark.subjects import AXES, PCA, RANDOM, UNTRAINED, Subject, control_subjects
from sae_lens_audio.benchmark.unlearning import Unlearning

_CONTROLS = (AXES, PCA, RANDOM, UNTRAINED)
COSTS = ("latency",)  # what an SAE costs says nothing about its quality
_TRUTH = _QUALITY, _MCC, _F1, _LABELED, _TRAITS, _NOISES = (
    "quality", "planted MCC", "planted F1", "planted, labeled", "planted, traits", "planted, noise",
)  # fmt: skip
_COMPARED_WITH = {**{m.name: _TRAITS for m in SpeakerProbing().metrics}, "unlearning_noise": _NOISES}
_CHECKPOINT = re.compile(r"(?:(?P<run>.*)/)?at-(?P<share>[0-9.]+)")
Track = Callable[[Sequence[str], str], Iterable[str]]


@dataclass(frozen=True)
class PlantedPanel:
    """Planted activations and what is scored on them: graded copies of the true dictionary, trained SAEs, controls.

    ``PlantedPanel(SPEAKERS_AND_NOISE)`` is for metrics of speakers and of noise.
    """

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
        """Return the planted quality (that of all features, and of some kinds) and all scores of each subject.

        store: scores of an interrupted audit, with which it resumes.
        """
        store = store or ScoreStore()
        measured = {}
        for name in track(self.names, "planted subjects"):
            scores = store.get(name, lambda n=name: self._measure(n, scored_by))  # type: ignore[misc]
            measured[name] = {key: _value(score) for key, score in scores.items()}
        return measured

    def benchmark(self, scores: Mapping[str, Mapping[str, float]]) -> Benchmark:
        """Return the trained SAEs and the controls as a benchmark; without scores an empty one."""
        plans = self.training.plans(len(self.speech.features))
        rows = [
            SubjectScores(
                name,
                "control" if name in _CONTROLS else "SAE",
                {},
                {key: Score(Estimate(x)) for key, x in scores[name].items()},
            )
            for name in (*plans, *_CONTROLS)
            if name in scores
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
        values = (quality.quality, quality.mcc, quality.f1, quality.labeled, quality.traits, quality.noises)
        truth = {key: Score(Estimate(x)) for key, x in zip(_TRUTH, values, strict=True) if np.isfinite(x)}
        return truth | score_subject(subject, self.speech.data, scored_by)


def audit_metrics(
    benchmark: Benchmark | None = None,
    seeds: Sequence[Sequence[str]] = (),
    panel: PlantedPanel | None = None,
    scored_by: Sequence[MetricFamily] | None = None,
    *,
    speakers_and_noise: PlantedPanel | None = None,
    folder: Path | None = None,
    track: Track = lambda names, what: names,
) -> Audit:
    """Audit every metric that judges an SAE.

    A family that uses labels is compared with the recovery of the features that labels determine, others with that of
    all features. On a second panel, speaker probes are compared with the recovery of speakers' traits, and unlearning
    of noise with that of the features of noise.

    Args:
        benchmark: scores of SAEs of several seeds, of other settings, of controls, and of checkpoints, which are called
            ``RUN/at-SHARE`` beside ``RUN/sae``. Without it, the SAEs trained on planted activations.
        seeds: names of SAEs that differ only in their seed, for each setting of several seeds. Default: those that the
            benchmark itself compared.
        panel: planted activations and subjects.
        scored_by: families to audit; by default all.
        speakers_and_noise: the panel for metrics of speakers and of noise.
        folder: of planted scores; an interrupted audit resumes with them.

    Raises:
        ArgumentError: ``seeds`` has an unknown name.
    """
    panel, scored_by = panel or PlantedPanel(), tuple(families() if scored_by is None else scored_by)
    second = speakers_and_noise or PlantedPanel(SPEAKERS_AND_NOISE, seed=panel.seed)
    of_all = _PlantedScores.of(panel, scored_by, _compared_with(scored_by), folder and folder / "planted", track)
    of_second = _PlantedScores.of(
        second,
        _of_speakers_and_noise(scored_by, second),
        _COMPARED_WITH,
        folder and folder / "planted-speakers-and-noise",
        track,
    )
    roles = {
        part: _Roles.of(part.benchmark() if benchmark is None else benchmark, seeds) for part in (of_all, of_second)
    }
    subjects = roles[of_all].subjects
    attached = [m for m in all_metrics() if benchmark is not None and any(m.name in s.scores for s in subjects)]
    audited = {}
    for metric in dict.fromkeys([*(m for family in scored_by for m in family.metrics), *attached]):
        if metric.better == "neither" or metric.name in COSTS:
            continue
        part = of_second if of_second.has(metric) else of_all
        seeded, trend = roles[part].tests(metric)
        audited[metric.name] = MetricAudit(metric.name, metric.title, seeded, part.test(metric), trend)
    inputs = _inputs(of_all, of_second, roles[of_all], benchmark)
    return Audit(audited, inputs, of_all.rows(audited), of_second.rows(_COMPARED_WITH))


def _compared_with(scored_by: Sequence[MetricFamily]) -> dict[str, str]:
    return {m.name: _LABELED if family.needs_labels else _QUALITY for family in scored_by for m in family.metrics}


def _of_speakers_and_noise(scored_by: Sequence[MetricFamily], panel: PlantedPanel) -> list[MetricFamily]:
    """Return the families that need planted speakers or noise, with the noisy activations of the panel."""
    speakers: list[MetricFamily] = [family for family in scored_by if isinstance(family, SpeakerProbing)]
    unlearning = [family for family in scored_by if isinstance(family, Unlearning)]
    return [*speakers, *(replace(family, noisy=panel.speech.noisy) for family in unlearning)]


@dataclass(frozen=True, eq=False)
class _PlantedScores:
    """Scores of the subjects of a panel, and the key of the quality that each metric is compared with."""

    panel: PlantedPanel
    scores: Mapping[str, Mapping[str, float]]
    compared_with: Mapping[str, str]

    @classmethod
    def of(
        cls,
        panel: PlantedPanel,
        scored_by: Sequence[MetricFamily],
        compared_with: Mapping[str, str],
        folder: Path | None,
        track: Track,
    ) -> _PlantedScores:
        if not scored_by:
            return cls(panel, {}, compared_with)
        store = ScoreStore() if folder is None else ScoreStore(folder, panel.key(scored_by))
        return cls(panel, panel.scores(scored_by, store, track), compared_with)

    def benchmark(self) -> Benchmark:
        return self.panel.benchmark(self.scores)

    def described(self) -> str:
        speech = self.panel.speech
        return (
            f"{len(speech.features)} features in {speech.config.d} dimensions, {speech.data.n_rows} positions, "
            f"{len(self.panel.names)} subjects"
        )

    def has(self, metric: BenchmarkMetric) -> bool:
        return metric.name in self.compared_with and any(metric.name in values for values in self.scores.values())

    def test(self, metric: BenchmarkMetric) -> TruthTest:
        key = self.compared_with.get(metric.name, _QUALITY)
        quality = {name: values[key] for name, values in self.scores.items() if key in values}
        values = {name: values.get(metric.name, np.nan) for name, values in self.scores.items()}
        return truth_test(values, quality, {name: name.split()[0] for name in quality}, metric.better, TRUE)

    def rows(self, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return planted quality and the scores of these metrics by subject. Controls have no quality."""
        keys = {*_TRUTH, *metrics}
        return {
            name: {key: x for key, x in values.items() if key in keys}
            for name, values in self.scores.items()
            if _QUALITY in values
        }


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


def _inputs(
    of_all: _PlantedScores, of_second: _PlantedScores, roles: _Roles, benchmark: Benchmark | None
) -> dict[str, Any]:
    n = sum(len(names) for names in roles.settings.values() if len(names) > 1)
    where = "planted activations" if benchmark is None else f"{benchmark.model}, {benchmark.hook}"
    return {
        "planted": of_all.described(),
        **({"planted, with more speakers' traits, and noise": of_second.described()} if of_second.scores else {}),
        "seeds and checkpoints": f"of {where}: {n} SAEs of several seeds, {len(roles.settings)} settings, "
        f"{len(roles.controls)} controls, checkpoints of {len(roles.trajectories)} trainings",
        "settings": {key: list(names) for key, names in roles.settings.items()},
        "speech": {} if benchmark is None else {k: x for k, x in benchmark.inputs.items() if isinstance(x, int | str)},
    }
