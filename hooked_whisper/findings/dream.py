"""F16: input optimisation. Does a mel made to excite a neuron sound like the phone that the neuron answers to?

Source: ``optimize_input.py`` of github.com/er537/whisper_interpretability; its blog post lists it as future work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from hooked_whisper.features import LinearBasis, axes, random_orthonormal
from hooked_whisper.features.dreams import dream_of, in_full_window, start_mel
from hooked_whisper.features.phone_classifier import PhoneClassifier, frame_labels, phone_classifier
from hooked_whisper.findings.context import Context
from hooked_whisper.findings.drawing import BLUE, GREY, _figure, _in_words, _legend, draw_controls
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.records import Axis, Measurement, Table
from hooked_whisper.protocols import SILENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F16", "Mels made to excite a neuron"
CLAIM = (
    "A log-mel optimised for an encoder neuron excites it more than any speech of the data set does, and a phone "
    "classifier that knows nothing of the model names the phone that the neuron answers to."
)
PROTOCOL = (
    "Neurons: of the MLPs of the later half of the encoder, the best neuron of each phone by AUC (positions of the "
    "phone against all other positions of speech) on every second utterance; the 20 best of these, each neuron for one "
    "phone. Gradient ascent on the neuron's pre-activation (GELU is not monotone) at the middle of 0.64 s of mel, kept "
    "within the range of real mels, start: silence. The result is put into a silent window of full length; there the "
    "activation must exceed the largest one in any utterance. The classifier is a multinomial logistic regression on "
    "11 frames of the log-mel, trained on the same half of the utterances; it names the phone of highest mean "
    "log-probability over the 5 frames round the neuron's position. Intervals: 95 %, bootstrap over features. "
    "Controls: random orthonormal directions of the same pre-activations (target: the phone of their highest AUC); the "
    "same dreams with the targets of other neurons; the neurons' largest moment of real speech, not optimised."
)
FEATURES, LEAST = 20, 30  # tested; positions that a phone needs to be a target
FIRST, POSITIONS, STEPS = 25, 32, 60  # 0.64 s of mel, half a second into the window
AROUND = 2  # frames to either side of the neuron's position
STARTS = ("silence", "noise")
JUDGED = "silence"
ENOUGH_ACCURACY, ENOUGH_UTTERANCES = 0.4, 20
DRAWS = 2000

BOTH = "features that exceed the data set and whose phone is named"
ACCURACY = "classifier: frames named right in other utterances"
EXCEEDS, NAMED = "exceeds the data set's maximum", "phone is named"


@dataclass(frozen=True)
class Target:
    """A feature of a point and the phone it answers to."""

    hook: str
    unit: int
    phone: str
    auc: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Activations (pre-GELU) of every utterance's positions by point, and the phone at each (empty: none)."""

    values: Mapping[str, Float[np.ndarray, "row d"]]
    phone: np.ndarray
    utterance: Int[np.ndarray, "row"]
    position: Int[np.ndarray, "row"]


@dataclass(frozen=True, eq=False)
class Judged:
    """One row per feature: whether it exceeds the data set, whether its phone is named, and what is named."""

    exceeds: Bool[np.ndarray, "feature"]
    named: Bool[np.ndarray, "feature"]
    names: tuple[str, ...]
    activation: Float[np.ndarray, "feature"]
    largest: Float[np.ndarray, "feature"]

    @property
    def both(self) -> Bool[np.ndarray, "feature"]:
        return self.exceeds & self.named


def phone_aucs(
    values: Float[np.ndarray, "row unit"], phone: np.ndarray, phones: Sequence[str]
) -> Float[np.ndarray, "unit phone"]:
    """Probability that a unit is higher where the phone is than where it is not, ties counting half."""
    ranks = rankdata(values, axis=0)
    here = np.stack([phone == p for p in phones], axis=1).astype(float)  # [row, phone]
    n = here.sum(0)
    wins = ranks.T @ here - n * (n + 1) / 2
    return wins / np.maximum(n * (len(values) - n), 1)


def targets(
    aucs: Mapping[str, Float[np.ndarray, "unit phone"]], phones: Sequence[str], count: int = FEATURES
) -> list[Target]:
    """The best unit of each phone over all points, best first; a unit that is best for two phones stands for one."""
    found, taken = [], set()
    rows = [(hook, table) for hook, table in aucs.items()]
    best = [max(((float(t[:, p].max()), h, int(t[:, p].argmax())) for h, t in rows)) for p in range(len(phones))]
    for p in sorted(range(len(phones)), key=lambda p: -best[p][0]):
        value, hook, unit = best[p]
        if (hook, unit) not in taken:
            taken.add((hook, unit))
            found.append(Target(hook, unit, phones[p], value))
    return found[:count]


@torch.no_grad()
def read_speech(context: Context, hooks: Sequence[str]) -> Speech:
    """Activations of all utterances at the positions that their sound fills."""
    model = context.model
    values: dict[str, list[np.ndarray]] = {hook: [] for hook in hooks}
    phone, utterance, position = [], [], []
    for batch in context.track(context.batches(), "F16 speech"):
        _, cache = model.run_with_cache(context.mels(batch), names=list(hooks), return_type=None)
        for row, index in enumerate(batch):
            n = context.n_positions[index]
            for hook in hooks:
                values[hook].append(cache[hook][row, :n].float().cpu().numpy())
            phone.append(_phones(context, index, n))
            utterance.append(np.full(n, index))
            position.append(np.arange(n))
    joined = {hook: np.concatenate(rows) for hook, rows in values.items()}
    return Speech(joined, np.concatenate(phone), np.concatenate(utterance), np.concatenate(position))


def _phones(context: Context, index: int, n: int) -> np.ndarray:
    """Phone at the centre of each position: every second frame's."""
    alignment = context.utterances[index].alignment
    labels = tuple(sorted({p.label for p in alignment.phones}))
    numbers = frame_labels(alignment, 2 * n, labels)[::2].numpy()
    return np.array(["", *labels])[numbers + 1]


def named_phones(
    classifier: PhoneClassifier, mel: Float[Tensor, "row mel frame"], frame: int | Int[np.ndarray, "row"]
) -> tuple[str, ...]:
    """The phone of highest mean log-probability over the five frames round one frame of each row."""
    log_probs = classifier.log_probs(mel)
    middle = np.broadcast_to(np.asarray(frame), (len(mel),))
    near = np.clip(middle[:, None] + np.arange(-AROUND, AROUND + 1), 0, mel.shape[2] - 1)
    chosen = log_probs[torch.arange(len(mel))[:, None], torch.from_numpy(near)].mean(1).argmax(-1)
    return tuple(classifier.labels[int(k)] for k in chosen)


def run(context: Context) -> Finding:
    """Encodes every utterance once; then dreams of two dozen features at a time on short windows."""
    cfg = context.model.cfg.encoder
    aligned = [i for i, u in enumerate(context.utterances) if u.alignment.phones]
    if len(aligned) < 2:
        return _finding(context, reason="no clip has phones with their times: there is no target to compare with")
    if cfg.n_ctx < FIRST + POSITIONS:
        return _finding(context, reason=f"the window has {cfg.n_ctx} positions: it holds no dream of {POSITIONS}")
    hooks = [f"encoder.blocks.{b}.mlp.hook_pre" for b in range(cfg.n_layers // 2, cfg.n_layers)]
    speech = read_speech(context, hooks)
    train = np.isin(speech.utterance, aligned[::2])
    names, counts = np.unique(speech.phone[train], return_counts=True)
    phones = [str(p) for p, n in zip(names, counts, strict=True) if n >= LEAST and p not in ("", SILENCE)]
    if not phones:
        return _finding(context, reason=f"no phone has {LEAST} positions in half of the clips: give more speech")
    mels = {i: context.mels([i])[0, :, : 2 * context.n_positions[i]] for i in aligned}
    alignments = [context.utterances[i].alignment for i in aligned]
    classifier = phone_classifier([mels[i] for i in aligned[::2]], alignments[::2])
    accuracy = _accuracy(context, classifier, [mels[i] for i in aligned[1::2]], alignments[1::2])
    spoken = speech.phone != ""
    chosen = targets(
        {h: phone_aucs(x[train & spoken], speech.phone[train & spoken], phones) for h, x in speech.values.items()},
        phones,
    )
    neurons = {hook: axes(cfg.d_mlp) for hook in hooks}
    by_start = {
        kind: judge(context, classifier, chosen, neurons, speech, start_of(kind, mels, context.seed))
        for kind in context.track(STARTS, "F16 dreams")
    }
    # as many random directions of each point as neurons were taken from it
    random = {
        h: random_orthonormal(cfg.d_mlp, sum(t.hook == h for t in chosen), seed=context.seed + k)
        for k, h in enumerate(hooks)
        if any(t.hook == h for t in chosen)
    }
    their = _random_targets(random, speech, train & spoken, phones)
    random_speech = Speech(
        {h: b.encode(torch.from_numpy(speech.values[h])).numpy() for h, b in random.items()},
        speech.phone,
        speech.utterance,
        speech.position,
    )
    directions = judge(context, classifier, their, random, random_speech, start_of(JUDGED, mels, context.seed))
    plain = real_moments(context, classifier, chosen, speech)
    return _finding(context, chosen, by_start, directions, plain, accuracy, len(aligned))


def _random_targets(
    random: Mapping[str, LinearBasis], speech: Speech, rows: Bool[np.ndarray, "row"], phones: Sequence[str]
) -> list[Target]:
    """Each random direction and the phone of its highest AUC."""
    found = []
    for hook, basis in random.items():
        encoded = basis.encode(torch.from_numpy(speech.values[hook][rows])).numpy()
        table = phone_aucs(encoded, speech.phone[rows], phones)
        found += [Target(hook, u, phones[int(row.argmax())], float(row.max())) for u, row in enumerate(table)]
    return found


def start_of(kind: Any, mels: Mapping[int, Float[Tensor, "mel _"]], seed: int) -> Float[Tensor, "mel frame"]:
    return start_mel(kind, list(mels.values()), 2 * POSITIONS, seed)


def judge(
    context: Context,
    classifier: PhoneClassifier,
    chosen: Sequence[Target],
    bases: Mapping[str, LinearBasis],
    speech: Speech,
    start: Float[Tensor, "mel frame"],
) -> Judged:
    """Dream of every target and check both parts of the claim; ``speech`` holds the features' own values."""
    model, n = context.model, len(chosen)
    activation, names, largest = np.zeros(n), [""] * n, np.zeros(n)
    for hook in dict.fromkeys(t.hook for t in chosen):
        some = [k for k, t in enumerate(chosen) if t.hook == hook]
        units = [chosen[k].unit for k in some]
        found = dream_of(model, hook, bases[hook], units, start, first_position=FIRST, steps=STEPS, seed=context.seed)
        activation[some] = in_full_window(model, hook, bases[hook], units, found.mel, FIRST, found.at).cpu().numpy()
        largest[some] = speech.values[hook][:, units].max(0)
        for k, name in zip(some, named_phones(classifier, found.mel, 2 * (found.at.start - FIRST)), strict=True):
            names[k] = name
    right = np.array([name == t.phone for name, t in zip(names, chosen, strict=True)])
    return Judged(activation > largest, right, tuple(names), activation, largest)


def real_moments(context: Context, classifier: PhoneClassifier, chosen: Sequence[Target], speech: Speech) -> Judged:
    """What the classifier names at each neuron's largest moment in the utterances it was not trained on."""
    held = np.flatnonzero(np.isin(speech.utterance, np.unique(speech.utterance)[1::2]))
    names: list[str] = []
    largest, activation = [], []
    for target in chosen:
        values = speech.values[target.hook][:, target.unit]
        top = int(held[values[held].argmax()])
        mel = context.mels([int(speech.utterance[top])])
        names += named_phones(classifier, mel, 2 * int(speech.position[top]))
        activation.append(values[top])
        largest.append(values.max())
    right = np.array([name == t.phone for name, t in zip(names, chosen, strict=True)])
    at, most = np.array(activation, dtype=float), np.array(largest, dtype=float)
    return Judged(at > most, right, tuple(names), at, most)


def _accuracy(
    context: Context, classifier: PhoneClassifier, mels: Sequence[Tensor], alignments: Sequence[Any]
) -> Estimate:
    """With a bootstrap over utterances; each weighs the same."""
    rates = np.array([classifier.accuracy([m], [a]) for m, a in zip(mels, alignments, strict=True)])
    drawn = context.rng("F16 accuracy").integers(len(rates), size=(DRAWS, len(rates)))
    return Estimate.of(float(rates.mean()), rates[drawn].mean(1))


def _share(hits: Bool[np.ndarray, "feature"], rng: np.random.Generator) -> Estimate:
    drawn = rng.integers(len(hits), size=(DRAWS, len(hits)))
    return Estimate.of(float(hits.mean()), hits[drawn].mean(1))


def _finding(
    context: Context,
    chosen: Sequence[Target] = (),
    by_start: Mapping[str, Judged] | None = None,
    directions: Judged | None = None,
    plain: Judged | None = None,
    accuracy: Estimate | None = None,
    utterances: int = 0,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, PROTOCOL),
        "published_summary": "none: the published code moves away from its target; its page lists it as future work",
        "parameters": {
            "features": FEATURES,
            "least_positions_of_a_phone": LEAST,
            "positions": POSITIONS,
            "steps": STEPS,
            "start": JUDGED,
            "frames_judged": 2 * AROUND + 1,
        },
    }
    if by_start is None or directions is None or plain is None or accuracy is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("F16 bootstrap")
    ours = by_start[JUDGED]
    moved = [chosen[k - 1].phone for k in range(len(chosen))]  # every neuron gets the target of another one
    shuffled = ours.exceeds & np.array([name == phone for name, phone in zip(ours.names, moved, strict=True)])
    rows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
        f"start: {kind}": (x.exceeds, x.named, x.both) for kind, x in by_start.items()
    }
    rows["random directions"] = (directions.exceeds, directions.named, directions.both)
    rows["real speech, not optimised"] = (plain.exceeds, plain.named, plain.both)
    criteria = (
        Criterion(BOTH, _share(ours.both, rng), 0.7, "at least"),
        Criterion(ACCURACY, accuracy, ENOUGH_ACCURACY, "at least", role="gate"),
        Criterion("features tested", Estimate(len(chosen)), FEATURES, "at least", role="gate"),
        Criterion("utterances with phones", Estimate(utterances), ENOUGH_UTTERANCES, "at least", role="gate"),
    )
    controls = (
        Control(
            "random directions",
            "as many random orthonormal directions of the same pre-activations, each with its best phone",
            {BOTH: _share(directions.both, rng)},
        ),
        Control(
            "other targets", "the same dreams, each with the phone of another neuron", {BOTH: _share(shuffled, rng)}
        ),
        Control(
            "real speech",
            "each neuron's largest moment in the other half of the utterances, not optimised",
            {BOTH: _share(plain.both, rng)},
        ),
    )
    shares = np.array([[_share(x, rng).row for x in row] for row in rows.values()])
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "share of features",
                (
                    Axis("mel", tuple(rows)),
                    Axis("check", (EXCEEDS, NAMED, "both")),
                    Axis("bound", ("value", "low", "high")),
                ),
                shares,
            ),
            Measurement(
                "pre-activation",
                (
                    Axis("neuron", tuple(_label(t) for t in chosen)),
                    Axis("of", ("dream", "largest in speech")),
                ),
                np.stack([ours.activation, ours.largest], 1),
            ),
        ),
        tables=(_table(chosen, ours, plain),),
        notes=_notes(by_start, directions, plain, accuracy),
    )


def _label(target: Target) -> str:
    return f"{target.hook.split('.')[2]}.{target.unit} /{target.phone}/"


def _table(chosen: Sequence[Target], ours: Judged, plain: Judged) -> Table:
    return Table(
        "Dreams",
        "this run",
        ("neuron", "target", "AUC", "dream", "largest in speech", "named in dream", "named in speech"),
        tuple(
            (
                f"block {t.hook.split('.')[2]}, {t.unit}",
                t.phone,
                f"{t.auc:.3f}",
                f"{ours.activation[k]:.2f}",
                f"{ours.largest[k]:.2f}",
                ours.names[k],
                plain.names[k],
            )
            for k, t in enumerate(chosen)
        ),
    )


def _notes(by_start: Mapping[str, Judged], directions: Judged, plain: Judged, accuracy: Estimate) -> tuple[str, ...]:
    each = "; ".join(f"{k}: {x.both.mean():.0%} (named {x.named.mean():.0%})" for k, x in by_start.items())
    return (
        f"Not judged: the same from other starts. {each}.",
        f"At the neurons' largest moments in speech the classifier names the target in {plain.named.mean():.0%}; the "
        f"random directions' dreams exceed the data set in {directions.exceeds.mean():.0%}.",
        "To exceed the data set is easy, for random directions too: the evidence is in the names.",
    )


def draw(finding: Finding) -> list[Figure]:
    """The claim beside its controls; dream against speech, neuron by neuron."""
    if not finding.measurements:
        return []
    table = finding.measurement("pre-activation")
    figure, axes_ = _figure("Dream and data set", "largest pre-activation in speech", "pre-activation of the dream")
    speech, dreamt = table.at(of="largest in speech"), table.at(of="dream")
    axes_.scatter(speech, dreamt, color=BLUE, s=22)
    ends = [float(min(speech.min(), 0)), float(speech.max())]
    axes_.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.2, label="equal")
    _legend(axes_)
    figure.set_label(_in_words("Pre-activation of dreams", dreamt, [str(e) for e in table.axes[0].entries], "", 1.0))
    return [draw_controls(finding, 0, "share of features"), figure]
