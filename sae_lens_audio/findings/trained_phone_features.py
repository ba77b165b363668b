"""F6 on released models: SAEs of the last two encoder blocks, trained on the packaged speech."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AudioError
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding, describe
from hooked_whisper.findings.core.packing import n_packed
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import DRAWS, ENOUGH_PHONES, ENOUGH_SPEAKERS, resampled_means
from hooked_whisper.protocols import FeatureBasis
from sae_lens_audio.evals.baselines import RandomFeatures
from sae_lens_audio.evals.phones import FOUND, PhoneOptions, PhoneScores, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.findings import phone_features_drawing
from sae_lens_audio.findings.estimates import least, most
from sae_lens_audio.findings.phone_features_drawing import CURVE, DISTRIBUTION, F1_BY_BASIS, SHARE_BY_BASIS
from sae_lens_audio.findings.published import CLAIM, SUMMARY, TIED_FEATURES_BY_EAR
from sae_lens_audio.findings.trained_saes import (
    TIED,
    TIED_FEATURES,
    TIED_TRAINING,
    TOPK,
    TOPK_K,
    TOPK_TRAINING,
    TOPK_WIDTH,
    TrainedBlock,
    TrainedSAEs,
    has_phones,
    held_out_clips,
    trained_saes,
    training_speech,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENOUGH = 0.6  # share of features: more than half, and below the 37 of 50 neurons published as phonetic
BEYOND = 0.0  # the whole interval of each difference must be above it
EXPLAINED = 0.8  # below it, the SAE was not trained long enough to be judged
FEW_FEATURES = 50  # live features; with fewer, the interval of a share is wider than 0.28
MIN_TOKENS = 20  # of a phone; the usual 50 would exclude half of the English phones in four minutes of speech
N_SHOWN = 12

UNTRAINED, RANDOM, MANY, AXES, PCA, ORTHONORMAL, MEL = (
    "untrained SAE", "random, as many", "random, as TopK", "residual axes", "principal", "random orthonormal",
    "mel bands",
)  # fmt: skip
BASES = {AXES: "neurons", PCA: "pca", ORTHONORMAL: "random", MEL: "mel bands"}  # names of the evaluation
SHOWN = (TIED, TOPK, UNTRAINED, RANDOM, MANY, AXES, PCA, ORTHONORMAL, MEL)

PROTOCOL = (
    "Two sparse autoencoders (SAEs) are trained on the residual stream after each of the last two encoder blocks (2 "
    f"and 3 of tiny, as published). The published form is tied, without decoder bias: {TIED_FEATURES} features, loss "
    f"1e4 times the mean squared error plus L1, RAdam with a cosine schedule. TopK has {TOPK_WIDTH} features per "
    f"dimension, k {TOPK_K}, and {TOPK_TRAINING.steps:,} steps. The published form gets fewer steps than the original: "
    f"{TIED_TRAINING.steps:,} of {TIED_TRAINING.batch:,} positions instead of 20,000 of 50 files, learning rate "
    f"{TIED_TRAINING.lr:g} instead of 0.0004. Training speech: the packaged speech by the training voices, in five "
    "languages, several recordings per 30 s window, at positions within phones (the original included padding). "
    "Evaluation: clips with other voices and sentences, packed in the same way. The phone, sign and threshold of a "
    "feature come from speakers other than those its F1 is computed on. Phones with fewer than "
    f"{MIN_TOKENS} tokens, silence, and features that never fire are excluded. The claim is about the published form, "
    "so that is judged, each criterion in the block where it does worse; TopK is shown for comparison. The number of "
    "principal directions is that of the published form's features: later ones have almost no variance and would lower "
    "the mean. Controls, each in the block where it does best: as many random directions through a ReLU, the published "
    "form with its initial weights, and the trained features with labels rotated within each window. Intervals: 95 %, "
    "bootstrap over features."
)
C_FOUND = f"share of features with an F1 of {FOUND:g} for a phone"
C_BEYOND = {
    AXES: "best-phone F1, mean over features, beyond the residual's own axes",
    PCA: "best-phone F1, mean over features, beyond principal directions",
    ORTHONORMAL: "best-phone F1, mean over features, beyond random orthonormal directions",
}
C_EXPLAINED = "explained variance of held-out speech"


@dataclass(frozen=True, eq=False)
class _Block:
    """The features of one block by kind (:data:`SHOWN`), and their scores on held-out speech."""

    trained: TrainedBlock
    phones: Mapping[str, PhoneScores]
    reconstruction: Mapping[str, ReconstructionScores]

    def beyond(self, name: str, basis: str, rng: np.random.Generator, shifted: bool = False) -> Estimate:
        """Return the mean best-phone F1 of a kind of features minus that of a basis, both over live features."""
        f1, basis_f1 = (_f1(self.phones[kind], shifted) for kind in (name, basis))
        if not len(f1) or not len(basis_f1):
            return Estimate(None)
        samples = resampled_means(f1, rng) - resampled_means(basis_f1, rng)
        return Estimate.of(float(f1.mean() - basis_f1.mean()), samples)


def _f1(scores: PhoneScores, shifted: bool = False) -> np.ndarray:
    return (scores.shifted_f1 if shifted else scores.f1)[scores.alive]


@dataclass(frozen=True, eq=False)
class TrainedFeatureScores:
    """Scores of the features of every block, with the SAEs that they belong to.

    seconds: duration of the clips that the scores are of.
    """

    saes: TrainedSAEs
    blocks: tuple[_Block, ...]
    seconds: float


class TrainedPhoneFeatures(Experiment[TrainedFeatureScores]):
    """F6 on released models."""

    id, title, claim, protocol = "F6", "Features for phones", CLAIM, PROTOCOL
    published, published_summary = (TIED_FEATURES_BY_EAR,), SUMMARY

    def measure(self, context: Context) -> TrainedFeatureScores:
        """Train the SAEs, unless this context has them, and score them on held-out clips."""
        if not context.utterances:
            raise Untestable(
                "there are no clips: leave out --corpus and --audio for the packaged speech, or pass --corpus"
            )
        try:
            held_out = held_out_clips(context, training_speech())
        except AudioError as error:
            raise Untestable(
                f"this installation has no packaged speech to train SAEs on ({error}): install a release wheel"
            ) from error
        _check_clips(context, held_out)
        saes = trained_saes(context, held_out)
        seconds = round(sum(len(clip.samples) for clip in saes.clips) / context.model.time.sample_rate, 2)
        return TrainedFeatureScores(
            saes, tuple(_evaluate(context, block, saes.clips) for block in saes.blocks), seconds
        )

    def judge(self, measured: TrainedFeatureScores, setting: Setting) -> Finding:
        rng, blocks, saes = setting.rng(self.id), measured.blocks, measured.saes
        rows = {name: [_measured(block, name, rng) for block in blocks] for name in (TIED, TOPK, UNTRAINED)}
        rows["random directions"] = [_measured(block, RANDOM, rng) for block in blocks]
        rows["shifted labels"] = [_measured(block, TIED, rng, shifted=True) for block in blocks]
        claims = [Criterion(C_FOUND, least(rows[TIED], C_FOUND), ENOUGH, "at least")]
        claims += [Criterion(name, least(rows[TIED], name), BEYOND, "at least") for name in C_BEYOND.values()]
        descriptions = (
            ("random directions", "as many as the published form has features, through a ReLU"),
            (UNTRAINED, "the published form with its initial weights"),
            ("shifted labels", "the trained features, labels rotated within each window"),
        )
        return self.finding(
            setting,
            inputs=setting.inputs
            | {
                "clips": n_packed(saes.clips),
                "speakers judged": sorted({clip.alignment.speaker for clip in saes.clips}),
                "seconds judged": measured.seconds,
            },
            parameters={
                "blocks": [block.trained.number for block in blocks],
                "features": {TIED: TIED_FEATURES, TOPK: blocks[0].phones[TOPK].n_features},
                "steps": {TIED: TIED_TRAINING.steps, TOPK: TOPK_TRAINING.steps},
                "training positions": saes.n_rows,
                "training recordings": saes.recordings,
                "training windows": saes.windows,
                "training CPU seconds": saes.seconds,
                "draws": DRAWS,
            },
            criteria=(*claims, *_gates(blocks)),
            controls=tuple(
                Control(name, text, {c.name: most(rows[name], c.name) for c in claims}) for name, text in descriptions
            ),
            measurements=(
                _by_basis(F1_BY_BASIS, blocks, lambda scores: scores.mean_f1),
                _by_basis(SHARE_BY_BASIS, blocks, lambda scores: scores.found_share),
                _distribution(blocks[-1]),
                _curves(blocks),
            ),
            tables=(_scores_table(blocks), *(_features_table(block) for block in blocks)),
            notes=_notes(blocks, saes, claims, rows[TOPK]),
            extra={"seeds": 1},
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw controls, F1 by kind of features and block, features by F1, and the learning curves."""
        return phone_features_drawing.draw(finding) if finding.measurements else []


def _check_clips(context: Context, held_out: Sequence[Clip]) -> None:
    """
    Raises:
        Untestable: the clips have no phones, were trained on, or are of too few speakers.
    """
    if not any(has_phones(clip) for clip in context.labelled):
        raise Untestable("these clips have no phone alignment: pass --alignments, or run `hooked-whisper align`")
    if not held_out:
        raise Untestable(
            "the SAEs are trained on the packaged speech by the training voices, and every clip here is by one of "
            "them: leave out --corpus for the held-out voices, or pass another corpus"
        )
    speakers = {clip.alignment.speaker for clip in held_out}
    if len(speakers) < ENOUGH_SPEAKERS:
        raise Untestable(
            f"the clips with phones that the SAEs were not trained on are of {len(speakers)} speaker, but thresholds "
            "come from other speakers: give clips of two speakers or more"
        )


def _evaluate(context: Context, block: TrainedBlock, clips: Sequence[Clip]) -> _Block:
    as_many = RandomFeatures.like(TIED_FEATURES, block.bases["neurons"].mean, context.seed)
    features: dict[str, FeatureBasis] = {**block.saes, UNTRAINED: block.untrained, RANDOM: as_many}
    scores = phone_scores(
        context.model,
        list(clips),
        block.hook,
        features,
        {**block.bases, "pca": _first(block.bases["pca"], TIED_FEATURES)},
        PhoneOptions(min_tokens=MIN_TOKENS, seed=context.seed),
        lambda steps: context.track(steps, f"phones, block {block.number}"),
    )
    keys = BASES | {MANY: f"random x{max(basis.n_features for basis in features.values())}"}
    rows = [part.to(context.model.device) for part in block.held_out.split(4096)]
    return _Block(
        block,
        {name: scores[keys.get(name, name)] for name in SHOWN},
        {
            name: ReconstructionScores.of(sae, rows, hook=block.hook)
            for name, sae in {**block.saes, UNTRAINED: block.untrained}.items()
        },
    )


def _first(basis: LinearBasis, n: int) -> LinearBasis:
    return LinearBasis(basis.directions[:n], basis.mean, basis.labels[:n])


# Judging --------------------------------------------------------------------------------------------------------------


def _gates(blocks: Sequence[_Block]) -> tuple[Criterion, ...]:
    tied = [block.phones[TIED] for block in blocks]
    explained = min(block.reconstruction[TIED].explained_variance for block in blocks)
    alive = min(int(scores.alive.sum()) for scores in tied)
    phones = f"phones said {MIN_TOKENS} times or more"
    return (
        Criterion(C_EXPLAINED, Estimate(explained), EXPLAINED, "at least", role="gate"),
        Criterion(phones, Estimate(len(tied[0].phones)), ENOUGH_PHONES, "at least", role="gate"),
        Criterion("features alive", Estimate(alive), FEW_FEATURES, "at least", role="gate"),
    )


def _measured(block: _Block, name: str, rng: np.random.Generator, shifted: bool = False) -> dict[str, Estimate]:
    f1 = _f1(block.phones[name], shifted)
    share = Estimate.of((f1 >= FOUND).mean(), resampled_means((f1 >= FOUND).astype(float), rng)) if len(f1) else None
    return {C_FOUND: share or Estimate(None)} | {
        criterion: block.beyond(name, basis, rng, shifted) for basis, criterion in C_BEYOND.items()
    }


# Showing --------------------------------------------------------------------------------------------------------------


def _by_basis(name: str, blocks: Sequence[_Block], estimate: Callable[[PhoneScores], Estimate]) -> Measurement:
    numbers = tuple(block.trained.number for block in blocks)
    values = [[estimate(block.phones[kind]).row for block in blocks] for kind in SHOWN]
    axes = (Axis("features", SHOWN), Axis("block", numbers), Axis("bound", ("value", "low", "high")))
    return Measurement(name, axes, np.array(values))


def _distribution(block: _Block) -> Measurement:
    """Return the share of features in each bin of best-phone F1."""
    edges, shown = np.linspace(0, 1, 11), (TIED, TOPK, RANDOM, AXES)
    counts = [np.histogram(_f1(block.phones[name]), edges - 1e-9)[0] for name in shown]
    axes = (Axis("features", shown), Axis("F1 from", tuple(edges[:-1].round(2).tolist())))
    return Measurement(DISTRIBUTION, axes, np.array([c / max(1, c.sum()) for c in counts]))


def _curves(blocks: Sequence[_Block]) -> Measurement:
    values = np.array([[block.trained.curves[name] for block in blocks] for name in (TIED, TOPK)])
    parts = tuple(((np.arange(values.shape[2]) + 1) / values.shape[2]).round(2).tolist())
    numbers = tuple(block.trained.number for block in blocks)
    return Measurement(
        CURVE, (Axis("SAE", (TIED, TOPK)), Axis("block", numbers), Axis("share of steps", parts)), values
    )


def _scores_table(blocks: Sequence[_Block]) -> Table:
    columns = (
        "block", "features", "number", "alive", "L0", "explained variance", "dead", "mean best-phone F1",
        f"share with F1 {FOUND:g}", "mean F1, shifted labels", "phone's best F1",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for block in blocks:
        for name in SHOWN:
            phones, scores = block.phones[name], block.reconstruction.get(name)
            rows.append((
                str(block.trained.number), name, str(phones.n_features), str(int(phones.alive.sum())),
                f"{scores.l0:.1f}" if scores else "", f"{scores.explained_variance:.3f}" if scores else "",
                f"{scores.dead_fraction:.1%}" if scores else "", _number(phones.mean_f1), _number(phones.found_share),
                f"{phones.shifted_mean_f1:.3f}", _number(phones.phone_f1),
            ))  # fmt: skip
    return Table("Scores by block", "this run, voices and sentences that were not trained on", columns, tuple(rows))


def _features_table(block: _Block) -> Table:
    """Return the features with the highest best-phone F1, of both SAEs."""
    rows = []
    for name in (TIED, TOPK):
        scores = block.phones[name]
        order = np.argsort(-np.where(scores.alive, scores.f1, -1))[:N_SHOWN]
        rows += [(name, str(i), scores.phones[scores.label[i]], f"{scores.f1[i]:.2f}") for i in order]
    title = f"Best phone detectors, block {block.trained.number}"
    return Table(title, "this run", ("SAE", "feature", "phone", "F1"), tuple(rows))


def _notes(
    blocks: Sequence[_Block], saes: TrainedSAEs, claims: list[Criterion], topk: list[dict[str, Estimate]]
) -> tuple[str, ...]:
    parts, growth = [], []
    for block in blocks:
        tied, other, number = block.reconstruction[TIED], block.reconstruction[TOPK], block.trained.number
        parts.append(
            f"block {number}: the published form explains {tied.explained_variance:.3f} of the variance with "
            f"{tied.l0:.0f} of {tied.n_features} features active at a position, TopK {other.explained_variance:.3f} "
            f"with {other.l0:.0f} of {other.n_features}"
        )
        curve = block.trained.curves[TIED]
        growth.append(f"{curve[-1] - curve[len(curve) // 2]:+.3f} in block {number}")
    best = ", ".join(f"{name} {blocks[-1].phones[name].best_f1.mean():.2f}" for name in (TIED, RANDOM, TOPK, MANY))
    dense = all(block.reconstruction[TIED].l0 > TIED_FEATURES / 2 for block in blocks)
    verdicts = [(c, least(topk, c.name)) for c in claims]
    missed = [describe(replace(c, estimate=e)) for c, e in verdicts if not c.met_by(e)]
    return (
        f"Reconstruction of held-out speech: {'; '.join(parts)}.",
        f"In the last two fifths of the steps the published form's explained variance changed by {', '.join(growth)}.",
        *(
            ["The published form is not sparse here: more than half of its features are active at a position."]
            if dense
            else []
        ),
        "TopK by the same criteria: " + (f"it misses {'; '.join(missed)}." if missed else "it meets all of them."),
        f"F1 of each phone's best feature, mean over phones, block {blocks[-1].trained.number}: {best}. This asks "
        "whether every phone has a feature, not whether every feature has a phone: a feature for part of a phone, or "
        "for a variant of it, has a low F1.",
        f"The SAEs were trained on {saes.n_rows:,} positions of {saes.recordings:,} recordings in {saes.windows} "
        "windows. One seed: the indices of features are specific to this run. The word error rate with an SAE attached "
        "is not measured.",
    )


def _number(estimate: Estimate) -> str:
    return "" if estimate.value is None else f"{estimate.value:.3f}"
