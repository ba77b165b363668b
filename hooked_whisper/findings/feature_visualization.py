"""F16: feature visualization. Does a mel made to excite a neuron sound like the phone that the neuron answers to?

Source: ``optimize_input.py`` of github.com/er537/whisper_interpretability; its blog post lists it as future work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_whisper.features import LinearBasis, axes, random_orthonormal
from hooked_whisper.features.phones.classifier import PhoneClassifier, phone_classifier
from hooked_whisper.features.visualize_with_priors import (
    MelPrior,
    Visualization,
    activation_in_window,
    ascend,
    visualize_features,
)
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, GRAY, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.phones.visualization_targets import (
    PADDING,
    Speech,
    Target,
    best_phones,
    named_phones,
    near_log_probs,
    phone_aucs,
    read_speech,
    targets,
)
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F16", "Feature visualization of neurons"
CLAIM = (
    "An input optimized for an encoder neuron excites it more than any real speech does, and a phone classifier "
    "names the neuron's phone in it."
)
PROTOCOL = (
    "Neurons: of the MLPs of the later half of the encoder, the best neuron of each phone by AUC (positions of the "
    "phone against all other positions of speech) on every second utterance; the 20 best of these, each for one phone. "
    "Gradient ascent on the neuron's pre-activation (GELU is not monotone) at the middle of 0.48 s of mel, from three "
    "random starts, with three priors: the mel is shifted in time at random by up to 3 frames before each gradient; "
    "the gradient is blurred in time and frequency, less with each step; and the ascent runs in the whitened space of "
    "the utterances' mels (means and covariance of the bands, correlation over time), no farther from the mean than a "
    "typical real mel. The result is put after half a second of silence; there its activation must exceed the largest "
    "one in any utterance. The classifier is a multinomial logistic regression on 11 frames of the log-mel, trained on "
    "every second clip, up to 120; it names the phone of highest mean log-probability over the 5 frames around the "
    "neuron's position. A neuron counts by the share of its starts in which both hold. The encoder runs on the clips "
    "and half a second of silence, not on 30 s. Intervals: 95 %, bootstrap over neurons. Controls: the same ascent "
    "without the priors; random orthonormal directions of the same pre-activations (target: the phone of their highest "
    "AUC); the best neurons of a model with random weights; the starting points; the targets of other neurons."
)
FEATURES, LEAST = 20, 30  # tested; positions that a phone needs to be a target
FIRST, POSITIONS = 25, 24  # 0.48 s of mel, half a second into the window
STEPS, SEEDS = 32, 3  # of the claim; controls have one start
JUDGE_CLIPS, RIDGE = 240, 0.1  # clips for both classifiers together; chosen by accuracy on other speech, see below

# Thresholds, written before the first run of this protocol. 70 % of 20 features is the criterion in the collection of
# findings. The gates say whether the method could have shown it: the classifier names 40 % of frames of other speech,
# far above the 7 % of always naming the commonest phone; and of a second phone classifier, whose phones are known and
# whose mels are made with the same priors and steps, at least as many features as the claim asks for are named. In the
# first run the classifiers had 50 clips and little weight decay (73 % of its own frames, 31 % of others'), and neither
# gate was met. More clips and more decay were then chosen by the accuracy on other real speech alone.
THRESHOLD = 0.7
ENOUGH_ACCURACY, ENOUGH_PLANTED, ENOUGH_UTTERANCES = 0.4, 0.7, 20
DRAWS = 2000

BOTH = "features that exceed the data set and whose phone is named"
ACCURACY = "classifier: frames named right in other utterances"
PLANTED = "known phone detectors whose phone is named"
EXCEEDS, NAMED = "exceeds the data set's maximum", "phone is named"
OURS, REAL = "with priors", "real speech, not optimized"


@dataclass(frozen=True, eq=False)
class Judged:
    """One row per feature, one column per start: whether it exceeds the data set, and which phone is named."""

    exceeds: Bool[np.ndarray, "feature seed"]
    names: tuple[tuple[str, ...], ...]
    named: Bool[np.ndarray, "feature seed"]
    activation: Float[np.ndarray, "feature seed"]
    largest: Float[np.ndarray, "feature"]

    @classmethod
    def of(
        cls,
        chosen: Sequence[Target],
        names: Sequence[Sequence[str]],
        activation: Float[np.ndarray, "feature seed"],
        largest: Float[np.ndarray, "feature"],
    ) -> Judged:
        named = np.array([[name == t.phone for name in row] for row, t in zip(names, chosen, strict=True)])
        return cls(activation > largest[:, None], tuple(map(tuple, names)), named, activation, largest)

    @property
    def both(self) -> Bool[np.ndarray, "feature seed"]:
        return self.exceeds & self.named

    def with_targets_of_others(self, chosen: Sequence[Target]) -> Judged:
        """Each feature with the phone of the one before it."""
        moved = [chosen[k - 1] for k in range(len(chosen))]
        return Judged.of(moved, self.names, self.activation, self.largest)


@dataclass(frozen=True, eq=False)
class Result:
    """What the finding reports."""

    chosen: Sequence[Target]
    rows: Mapping[str, Judged]
    planted: Bool[np.ndarray, "phone seed"]
    accuracy: Estimate
    utterances: int
    said: Float[np.ndarray, "feature"]


def run(context: Context) -> Finding:
    """Encodes the utterances in short windows; then ascends all features and starts of a hook point in one batch."""
    cfg, seed = context.model.cfg.encoder, context.seed
    aligned = [i for i, u in enumerate(context.utterances) if u.alignment.phones]
    if len(aligned) < 2:
        return _finding(
            context, reason="no clip has phones with their times to compare with: pass --alignments, or a TIMIT corpus"
        )
    if cfg.n_ctx < FIRST + POSITIONS:
        return _finding(
            context,
            reason=f"the encoder's window has {cfg.n_ctx} positions, and this finding needs {FIRST + POSITIONS}: use a "
            "model with a longer window",
        )
    hooks = [f"encoder.blocks.{b}.mlp.hook_pre" for b in range(cfg.n_layers // 2, cfg.n_layers)]
    speech = read_speech(context, hooks)
    train = np.isin(speech.utterance, aligned[::2]) & (speech.phone != "")
    names, counts = np.unique(speech.phone[train], return_counts=True)
    phones = [str(p) for p, n in zip(names, counts, strict=True) if n >= LEAST and p != SILENCE]
    mels = {i: context.mels([i])[0, :, : 2 * context.n_positions[i]] for i in aligned}
    if not phones or max(mel.shape[1] for mel in mels.values()) < 2 * POSITIONS:
        return _finding(context, reason=f"no phone has {LEAST} positions in half of the clips: give more speech")
    judge_, other = _classifiers(context)
    prior = MelPrior.of(list(mels.values()), 2 * POSITIONS)
    plain = prior.without_statistics()
    chosen = _targets(speech, train, phones)
    neurons = {hook: axes(cfg.d_mlp) for hook in hooks}
    random = {
        h: random_orthonormal(cfg.d_mlp, sum(t.hook == h for t in chosen), seed=seed + k)
        for k, h in enumerate(hooks)
        if any(t.hook == h for t in chosen)
    }
    of_random = speech.encoded(random)
    twin_speech = read_speech(context, hooks, context.untrained, aligned[::2])
    twin_chosen = _targets(twin_speech, twin_speech.phone != "", phones)
    model, few = context.model, {"n_seeds": 1}
    rows = {
        OURS: judge(model, judge_, chosen, neurons, speech, prior, seed),
        "without priors": judge(model, judge_, chosen, neurons, speech, plain, seed, jitter=0, blur=0, **few),
        "random directions": judge(
            model, judge_, best_phones(random, of_random, train, phones), random, of_random, prior, seed, **few
        ),
        "untrained model": judge(context.untrained, judge_, twin_chosen, neurons, twin_speech, prior, seed, **few),
        "starting point": judge(model, judge_, chosen, neurons, speech, prior, seed, steps=0),
    }
    rows["other targets"] = rows[OURS].with_targets_of_others(chosen)
    rows[REAL], said = real_moments(context, judge_, chosen, speech)
    planted = named_planted(judge_, other, [t.phone for t in chosen], prior, seed)
    accuracy = _accuracy(context, judge_, mels, aligned[1::2])
    return _finding(context, Result(chosen, rows, planted, accuracy, len(aligned), said))


def _classifiers(context: Context) -> tuple[PhoneClassifier, PhoneClassifier]:
    """The judge, and a second classifier that has heard none of its clips: of every second clip with phones each."""
    time = context.model.time
    clips = [u for u in context.labelled[:JUDGE_CLIPS] if u.alignment.phones]
    seconds = [min(len(u.samples) / time.sample_rate, time.duration) for u in clips]
    mels = [
        context.model.to_mel(u.samples)[0, :, : 2 * time.n_positions(s)] for u, s in zip(clips, seconds, strict=True)
    ]
    first, second = (phone_classifier(mels[half::2], [u.alignment for u in clips[half::2]], RIDGE) for half in (0, 1))
    return first, second


def _targets(speech: Speech, rows: Bool[np.ndarray, "row"], phones: Sequence[str]) -> list[Target]:
    tables = {hook: phone_aucs(x[rows], speech.phone[rows], phones) for hook, x in speech.values.items()}
    return targets(tables, phones, FEATURES)


def judge(
    model: HookedWhisper,
    classifier: PhoneClassifier,
    chosen: Sequence[Target],
    bases: Mapping[str, LinearBasis],
    speech: Speech,
    prior: MelPrior,
    seed: int,
    **how: Any,
) -> Judged:
    """Visualize every target and check both parts of the claim; ``speech`` holds the features' own values."""
    how = {"steps": STEPS, "n_seeds": SEEDS, "seed": seed} | how
    n_seeds = int(how["n_seeds"])
    activation = np.zeros((len(chosen), n_seeds))
    names: list[tuple[str, ...]] = [()] * len(chosen)
    for hook in dict.fromkeys(t.hook for t in chosen):
        rows = [k for k, t in enumerate(chosen) if t.hook == hook]
        units = [chosen[k].unit for k in rows]
        mel = visualize_features(model, hook, bases[hook], units, prior, first_position=FIRST, **how).mel
        of_rows = [unit for unit in units for _ in range(n_seeds)]
        held = activation_in_window(model, hook, bases[hook], of_rows, mel.flatten(0, 1), FIRST, _padding(model))
        activation[rows] = held.reshape(-1, n_seeds).cpu().numpy()
        for k, one in zip(rows, mel, strict=True):
            names[k] = named_phones(classifier, one, POSITIONS)  # the middle frame
    return Judged.of(chosen, names, activation, np.array([speech.largest(t) for t in chosen]))


def _padding(model: HookedWhisper) -> int:
    return min(PADDING, model.cfg.encoder.n_ctx - FIRST - POSITIONS)


def named_planted(
    classifier: PhoneClassifier, other: PhoneClassifier, phones: Sequence[str], prior: MelPrior, seed: int
) -> Bool[np.ndarray, "phone seed"]:
    """Whether the classifier names the phones of mels made for another classifier, trained on other utterances."""
    known = [p for p in phones if p in other.labels]
    number = torch.tensor([other.labels.index(p) for p in known]).repeat_interleave(SEEDS)[:, None]

    def objective(mel: Tensor, shift: int) -> Float[Tensor, "row"]:
        log_probs = near_log_probs(other, mel, np.full(len(mel), POSITIONS + shift))
        return log_probs.gather(1, number)[:, 0]

    made: Visualization = ascend(objective, prior, len(known), steps=STEPS, n_seeds=SEEDS, seed=seed)
    names = [named_phones(classifier, one, POSITIONS) for one in made.mel]
    return np.array([[name == p for name in row] for row, p in zip(names, known, strict=True)])


def real_moments(
    context: Context, classifier: PhoneClassifier, chosen: Sequence[Target], speech: Speech
) -> tuple[Judged, Float[np.ndarray, "feature"]]:
    """What the classifier names at each neuron's largest moment in the utterances it was not trained on, and whether
    the target was said there."""
    held = np.flatnonzero(np.isin(speech.utterance, np.unique(speech.utterance)[1::2]))
    names, activation, said = [], [], []
    for target in chosen:
        values = speech.values[target.hook][:, target.unit]
        top = int(held[values[held].argmax()])
        mel = context.mels([int(speech.utterance[top])])
        names.append(named_phones(classifier, mel, 2 * int(speech.position[top])))
        activation.append([values[top]])
        said.append(float(speech.phone[top] == target.phone))
    largest = np.array([speech.largest(t) for t in chosen])
    return Judged.of(chosen, names, np.array(activation, dtype=float), largest), np.array(said)


def _accuracy(
    context: Context, classifier: PhoneClassifier, mels: Mapping[int, Tensor], indices: Sequence[int]
) -> Estimate:
    """With a bootstrap over utterances; each weighs the same."""
    rates = np.array([classifier.accuracy([mels[i]], [context.utterances[i].alignment]) for i in indices])
    drawn = context.rng("F16 accuracy").integers(len(rates), size=(DRAWS, len(rates)))
    return Estimate.of(float(rates.mean()), rates[drawn].mean(1))


def _share(hits: Bool[np.ndarray, "feature seed"], rng: np.random.Generator) -> Estimate:
    """Mean over features of the share of starts, with a bootstrap over features."""
    rates = hits.mean(1)
    drawn = rng.integers(len(rates), size=(DRAWS, len(rates)))
    return Estimate.of(float(rates.mean()), rates[drawn].mean(1))


CONTROLS = {
    "without priors": "the same ascent without shifts, blur and statistics, within the range of real mels",
    "random directions": "as many random orthonormal directions of the same pre-activations, each with its best phone",
    "untrained model": "random weights: its own best neuron of each phone",
    "starting point": "the random mels before the first step",
    "other targets": "the same mels, each with the phone of another neuron",
}


def _finding(context: Context, result: Result | None = None, reason: str = "") -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published_summary": "none: the published code moves away from its target; its page lists it as future work",
        "parameters": {
            "features": FEATURES,
            "least_positions_of_a_phone": LEAST,
            "positions": POSITIONS,
            "steps": STEPS,
            "starts": SEEDS,
        },
    }
    if result is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("F16 bootstrap")
    ours, chosen = result.rows[OURS], result.chosen
    criteria = (
        Criterion(BOTH, _share(ours.both, rng), THRESHOLD, "at least"),
        Criterion(PLANTED, _share(result.planted, rng), ENOUGH_PLANTED, "at least", role="gate"),
        Criterion(ACCURACY, result.accuracy, ENOUGH_ACCURACY, "at least", role="gate"),
        Criterion("features tested", Estimate(len(chosen)), FEATURES, "at least", role="gate"),
        Criterion("utterances with phones", Estimate(result.utterances), ENOUGH_UTTERANCES, "at least", role="gate"),
    )
    controls = tuple(
        Control(name, what, {BOTH: _share(result.rows[name].both, rng)}) for name, what in CONTROLS.items()
    )
    shares = np.array([[_share(hits, rng).row for hits in (x.exceeds, x.named, x.both)] for x in result.rows.values()])
    bounds = Axis("bound", ("value", "low", "high"))
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "share of features",
                (Axis("mel", tuple(result.rows)), Axis("check", (EXCEEDS, NAMED, "both")), bounds),
                shares,
            ),
            Measurement(
                "pre-activation",
                (Axis("neuron", tuple(_label(t) for t in chosen)), Axis("of", ("visualization", "largest in speech"))),
                np.stack([ours.activation.mean(1), ours.largest], 1),
            ),
        ),
        tables=(_table(chosen, ours, result.rows[REAL]),),
        notes=_notes(result),
    )


def _label(target: Target) -> str:
    return f"{target.hook.split('.')[2]}.{target.unit} /{target.phone}/"


def _table(chosen: Sequence[Target], ours: Judged, plain: Judged) -> Table:
    return Table(
        "Visualizations",
        "this run",
        ("neuron", "target", "AUC", "visualization", "largest in speech", "named in it", "named in speech"),
        tuple(
            (
                f"block {t.hook.split('.')[2]}, {t.unit}",
                t.phone,
                f"{t.auc:.3f}",
                f"{ours.activation[k].mean():.2f}",
                f"{ours.largest[k]:.2f}",
                " ".join(ours.names[k]),
                plain.names[k][0],
            )
            for k, t in enumerate(chosen)
        ),
    )


def _notes(result: Result) -> tuple[str, ...]:
    each = "; ".join(
        f"{name}: exceed {x.exceeds.mean():.0%}, named {x.named.mean():.0%}" for name, x in result.rows.items()
    )
    return (
        f"{each}.",
        f"Check of the method: mels made in the same way for a second phone classifier, trained on other utterances, "
        f"are named right in {result.planted.mean():.0%}.",
        f"At the neurons' largest moments in the other half of the utterances the target is said in "
        f"{result.said.mean():.0%}, and the classifier names it in {result.rows[REAL].named.mean():.0%}.",
        *(
            ("What excites a neuron most is often not its phone, even in speech, so a mel need not be either.",)
            if result.said.mean() < THRESHOLD
            else ()
        ),
        "A single mel may exceed the data set for any direction: the evidence is in the names.",
    )


def draw(finding: Finding) -> list[Figure]:
    """The claim beside its controls; visualization against speech, neuron by neuron."""
    if not finding.measurements:
        return []
    table = finding.measurement("pre-activation")
    figure, axes_ = new_figure("Visualization and data set", "largest pre-activation in speech", "of the visualization")
    speech, made = table.at(of="largest in speech"), table.at(of="visualization")
    axes_.scatter(speech, made, color=BLUE, s=22)
    ends = [float(min(speech.min(), 0)), float(speech.max())]
    axes_.plot(ends, ends, color=GRAY, linestyle="--", linewidth=1.2, label="equal")
    add_legend(axes_)
    names = [str(e) for e in table.axes[0].entries]
    figure.set_label(alt_text("Pre-activation of visualizations", made, names, "", 1.0))
    return [draw_controls(finding, 0, "share of features"), figure]
