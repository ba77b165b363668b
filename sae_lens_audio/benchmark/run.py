"""Score SAEs and controls of one hook point with every metric."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import ArgumentError, CheckpointError
from hooked_whisper.features.phones.position_labels import label_names
from hooked_whisper.findings.core.finding import Estimate
from hooked_whisper.findings.core.packing import SPARE
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.benchmark import attached
from sae_lens_audio.benchmark.audit import packaged_audit
from sae_lens_audio.benchmark.data import MIN_TOKENS, BenchmarkData, benchmark_data
from sae_lens_audio.benchmark.families import families
from sae_lens_audio.benchmark.metric import BenchmarkMetric, MetricFamily, Score
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores
from sae_lens_audio.benchmark.store import ScoreStore
from sae_lens_audio.benchmark.subjects import Subject, control_subjects, sparse_controls
from sae_lens_audio.benchmark.unlearning import noisy_rows
from sae_lens_audio.evals.attached import MEAN, ZERO
from sae_lens_audio.evals.attached_runs import NoTextError, whole_clips
from sae_lens_audio.evals.stability import stability

SHIFTED = ", shifted labels"
RECURRING = BenchmarkMetric(
    "recurring",
    "latents found again",
    "higher",
    "share",
    "Share of live latents with a cosine above 0.7 to a latent of another seed. Parts: one to one, and by as many "
    "random directions.",
    "AudioSAE (arXiv 2602.05027); Paulo and Belrose 2025 (arXiv 2501.16615)",
)
Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of :func:`run_benchmark`.

    Attributes:
        attached_clips: number of clips to decode with each subject attached; 0 skips these scores.
        min_tokens: of a phone, to be judged.
        pack: fill windows with clips of one speaker, which is several times faster and changes activations slightly.
        noise: encode the clips once more with noise, to score unlearning of noise.
        language: of the texts.
        seed: of folds, controls and bootstrap samples.
    """

    attached_clips: int = 40
    min_tokens: int = MIN_TOKENS
    pack: bool = True
    noise: bool = True
    language: str = "en"
    seed: int = 0


class BenchmarkPoints(NamedTuple):
    """The hook points whose activations are needed.

    neurons: the MLP neurons of the same block, as a control; ``None`` for points outside the encoder's blocks.
    """

    reads: str
    writes: str
    neurons: str | None

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in self if name is not None))


def benchmark_points(model: HookedWhisper, hook: str, hook_out: str | None = None) -> BenchmarkPoints:
    """Return canonical names.

    Raises:
        ArgumentError: a pattern names several points.
        UnknownHookError: no such point.
    """
    names = []
    for pattern in (hook, hook_out or hook):
        matches = model.hook_names(pattern)
        if len(matches) != 1:
            raise ArgumentError(f"{pattern!r} names {len(matches)} points: score SAEs of one point at a time")
        names += matches
    block = re.match(r"encoder\.blocks\.\d+\.", names[0])
    return BenchmarkPoints(names[0], names[1], f"{block[0]}mlp.hook_post" if block else None)


def score_subject(
    subject: Subject, data: BenchmarkData, scored_by: Sequence[MetricFamily] | None = None
) -> dict[str, Score]:
    """Return all scores of a subject by name of metric. Families that need a decoder are skipped without one."""
    scores: dict[str, Score] = {}
    for family in families() if scored_by is None else scored_by:
        if subject.decodes or not family.needs_decode:
            scores |= family.measure(subject, data)
    return scores


def run_benchmark(
    model: HookedWhisper,
    saes: Mapping[str, SAE | NormalizedSAE],
    hook: str,
    clips: Sequence[Clip],
    fitted: Mapping[str, Float[Tensor, "_ _"]],
    options: BenchmarkOptions | None = None,
    *,
    hook_out: str | None = None,
    seeds: Sequence[str] = (),
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    store: ScoreStore | None = None,
    track: Track = lambda steps, what: steps,
) -> Benchmark:
    """Score SAEs of one hook point beside controls, on clips that nothing was fitted on.

    Args:
        clips: of speakers outside the training data, with phones; texts for the attached scores.
        fitted: activations at the :func:`benchmark_points` of other speech, for means, principal directions and mean
            ablation.
        hook_out: the hook point that transcoders predict.
        seeds: names of SAEs that differ only in their seed: latents that recur are counted.
        facts: of each SAE, for the table.
        inputs: further facts about the speech. notes: what a reader should know about it.
        store: scores of an interrupted benchmark, with which it resumes.
        track: wraps the subjects, for instance in a progress bar.

    Raises:
        ArgumentError: no SAE, a name of several hook points, clips of fewer than two speakers, or no frequent phone.
    """
    options, store, facts = options or BenchmarkOptions(), store or ScoreStore(), facts or {}
    if not saes:
        raise ArgumentError("no SAE to score: give at least one")
    if unknown := sorted(set(seeds) - set(saes)):
        raise ArgumentError(f"seeds names {unknown[0]!r}, which is not among the SAEs")
    points = benchmark_points(model, hook, hook_out)
    room = model.time.duration - SPARE if options.pack else None
    data = benchmark_data(
        model, clips, points.names, fitted, min_tokens=options.min_tokens, seed=options.seed, room=room
    )
    noisy = (
        noisy_rows(model, clips, [points.reads, points.writes], seed=options.seed, room=room) if options.noise else {}
    )
    subjects, scored_by = _subjects(saes, data, points, facts, options.seed), families(noisy)
    scored = {}
    for subject in track(subjects, "subjects"):
        shifted = subject.name.endswith(SHIFTED)
        labels = data.with_shifted_labels(options.seed) if shifted else data
        used = [family for family in scored_by if family.needs_labels] if shifted else scored_by
        scored[subject.name] = store.get(
            subject.name, lambda s=subject, d=labels, f=used: score_subject(s, d, f)  # type: ignore[misc]
        )  # fmt: skip
    notes = [*notes, *_left_out(clips, data, options.min_tokens)]
    if options.attached_clips:
        try:
            left_out = _attach(model, clips, subjects, data, scored, options, store)
            if left_out:
                notes.append(f"not attached, without text or cut: {left_out} of the clips to attach")
        except NoTextError as error:
            notes.append(f"not attached: {error}")
    rows = [SubjectScores(s.name, s.kind, s.facts, scored[s.name]) for s in subjects]
    rows += [SubjectScores(name, "control", {}, scored[name]) for name in (MEAN, ZERO) if name in scored]
    if seeds:
        rows.append(_recurring({name: saes[name] for name in seeds}, data, options.seed))
    return Benchmark(
        model=model.cfg.name,
        hook=points.reads,
        hook_out=points.writes,
        inputs={
            "clips": len(clips),
            "speakers": len(data.speakers),
            "positions": data.n_rows,
            "phones": len(data.phones),
            **(inputs or {}),
        },
        metrics=[m for m in all_metrics() if any(m.name in row.scores for row in rows)],
        subjects=rows,
        verdicts=_verdicts(),
        notes=notes,
    )


def _left_out(clips: Sequence[Clip], data: BenchmarkData, min_tokens: int) -> list[str]:
    """Return which phones of the clips are not judged."""
    rare = [name for name in label_names(clip.alignment for clip in clips) if name not in (*data.phones, SILENCE)]
    return [f"phones said less than {min_tokens} times, which are not judged: {', '.join(rare)}"] if rare else []


def _verdicts() -> Mapping[str, str]:
    """Return the verdicts of the packaged audit; none in an installation without it."""
    try:
        return packaged_audit().verdicts
    except CheckpointError:
        return {}


def all_metrics() -> tuple[BenchmarkMetric, ...]:
    """Return every metric of the benchmark, in the order of the table."""
    return (*(m for family in families() for m in family.metrics), *attached.METRICS, RECURRING)


def _subjects(
    saes: Mapping[str, SAE | NormalizedSAE],
    data: BenchmarkData,
    points: BenchmarkPoints,
    facts: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> list[Subject]:
    """Return the SAEs, the controls, and the first SAE once more for shifted labels."""
    out = points.writes if points.writes != points.reads else None
    trained = [Subject(name, "SAE", sae, points.reads, facts.get(name, {}), out) for name, sae in saes.items()]
    neurons = None
    if points.neurons is not None and points.neurons not in (points.reads, points.writes):
        neurons = (points.neurons, data.at(points.neurons).shape[1])
    fitted = data.fitted[points.reads]
    controls = control_subjects(points.reads, fitted, saes, neurons=neurons, seed=seed, hook_out=out)
    if out is None:
        controls += sparse_controls(points.reads, fitted, _typical_l0(trained, data), seed)
    again = Subject(f"{trained[0].name}{SHIFTED}", "control", trained[0].basis, points.reads, {}, out)
    names = [subject.name for subject in controls]
    if reserved := sorted(set(saes) & {*names, again.name, MEAN, ZERO}):
        raise ArgumentError(f"an SAE cannot be called {reserved[0]!r}, the name of a control: give it another name")
    return [*trained, *controls, again]


def _typical_l0(trained: Sequence[Subject], data: BenchmarkData) -> int:
    x = data.at(data.hook)[:: max(1, data.n_rows // 2000)]
    return max(1, round(float(np.median([float((s.encode(x) != 0).sum(1).float().mean()) for s in trained]))))


def _attach(
    model: HookedWhisper,
    clips: Sequence[Clip],
    subjects: Sequence[Subject],
    data: BenchmarkData,
    scored: dict[str, dict[str, Score]],
    options: BenchmarkOptions,
    store: ScoreStore,
) -> int:
    """Add the attached scores of the subjects that are sparse, and of both ablations.

    Returns the number of clips that were left out: parts of recordings, and recordings without text.

    Raises:
        NoTextError: no clip is a whole recording with its text.
    """
    sparse = [s for s in subjects if s.decodes and not s.name.endswith(SHIFTED) and (s.kind == "SAE" or s.sparse)]
    waiting = [s for s in sparse if not store.has(_attached(s.name))]
    spaced = np.linspace(0, len(clips) - 1, min(options.attached_clips, len(clips))).round().astype(int)
    whole = whole_clips(model, [clips[i] for i in spaced])
    new = {}
    if waiting:
        new = attached.score_attached(
            model,
            whole,
            waiting,
            data.fitted[waiting[0].writes],
            language=options.language,
            seed=options.seed,
        )
    for name in (*(s.name for s in sparse), MEAN, ZERO):
        scores = store.get(_attached(name), lambda n=name: new[n])  # type: ignore[misc]
        scored[name] = {**scored.get(name, {}), **scores}
    return len(spaced) - len(whole)


def _attached(name: str) -> str:
    return f"{name} (attached)"


def _recurring(saes: Mapping[str, SAE | NormalizedSAE], data: BenchmarkData, seed: int) -> SubjectScores:
    x = data.at(data.hook)
    alive = {
        name: (Subject(name, "SAE", sae, data.hook, {}).encode(x) != 0).any(0).numpy() for name, sae in saes.items()
    }
    matched = stability(saes, alive, seed)
    pairs = [pair.found_again for pair in matched.pairs]
    score = Score(
        Estimate(matched.mean("found_again"), min(pairs), max(pairs)),
        {"one to one": matched.mean("assigned_again"), "random directions": matched.mean("found_again", "random")},
    )
    return SubjectScores(f"{len(saes)} seeds", "seeds", {"saes": ", ".join(saes)}, {RECURRING.name: score})
