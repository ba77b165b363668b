"""F5: do neurons of the encoder's MLPs respond to one phone or to one class of phones?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    add_legend,
    alt_text,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.published import BLOG
from hooked_whisper.findings.core.records import BOUNDS, Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import SAMPLE, PhoneEvaluation, phone_evaluation, share, short
from hooked_whisper.findings.phones.layer_probes import TEXT as PROBE_TEXT
from hooked_whisper.findings.phones.layer_probes import accuracies, estimates
from hooked_whisper.findings.phones.summaries import MOST_LAG, TOP, TOPS, PhoneSite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PURE, ENOUGH, MOST_OF_CONTROLS = 0.6, 0.6, 0.15
N_SHOWN = 15

CLAIM = "Most neurons in an encoder MLP respond to one phone or to a few similar phones."
PROTOCOL = (
    f"{SAMPLE} For each neuron, the {TOP} strongest examples are taken, one per utterance. A neuron is phonetic if "
    f"{PURE:.0%} of them or more are one phone (not silence) or one narrow articulatory class. Only neurons that are "
    f"positive in {TOP} utterances or more (alive) count. The block is the one with the largest share in every second "
    "utterance of each speaker; the share is measured in the other utterances. Intervals: 95 %, bootstrap over "
    "neurons; utterances are not resampled, because an utterance drawn twice would give two equal examples. Each "
    "control uses the block in which its own share is largest in the second half, which favors the control. Principal "
    f"directions and mel bands are also reported. {PROBE_TEXT} The probes have no criterion."
)
SHARE = "share of neurons with a pure top 20"
BY_CLIPS = "share by number of clips"
LARGEST = "largest share of a control"

_SOUNDS = (
    "m|j, ch, sh|e, a|c, q|is|i|noise|w|l|the|I|N/A|noise|vowels|r|st|I|N/A|ch|p|I|l|th|g|b, d|N/A|N/A|N/A|u, A|N/A|"
    "N/A|N/A|d|p|n|q|a|A, E, I|microphone turning on|i|s|N/A|air|or, all|e, i|th|N/A|w|eer|w"
)
PUBLISHED = Table(
    "Sounds of neurons 0 to 49, tiny, block 2",
    f"{BLOG}, by listening: 37 phonetic, 3 noises, 10 N/A",
    ("neuron", "sound"),
    tuple((str(i), sound) for i, sound in enumerate(_SOUNDS.split("|"))),
)
PUBLISHED_IN_SHORT = (
    "tiny, block 2: 37 of 50 neurons phonetic, 3 noises, 10 N/A, by listening; no controls or intervals"
)


def pure(
    site: PhoneSite, utterances: Bool[np.ndarray, "utterance"], label_set: int = 0
) -> tuple[Bool[np.ndarray, "alive"], Float[np.ndarray, "alive"]]:
    """Return whether each feature that is alive in these utterances is phonetic, and its purity.

    The purity is the larger of the purity for phones and the purity for classes.
    """
    phones, narrow = site.purity(utterances, label_set)
    both = np.fmax(phones.purity, narrow.purity)[site.alive(utterances)]
    return both >= PURE, both


class PhoneticNeurons(Experiment[PhoneEvaluation]):
    """F5: count the neurons whose strongest examples are one phone or one class of phones."""

    id, title, claim, protocol = "F5", "Phonetic neurons", CLAIM, PROTOCOL
    published, published_summary = (PUBLISHED,), PUBLISHED_IN_SHORT

    def parameters(self, context: Context) -> dict[str, Any]:
        return {"top": TOP, "purity": PURE, "share": ENOUGH, "most_of_controls": MOST_OF_CONTROLS}

    def measure(self, context: Context) -> PhoneEvaluation:
        """Return the evaluation that F5, F7 and F8 share."""
        return phone_evaluation(context)

    def judge(self, measured: PhoneEvaluation, setting: Setting) -> Finding:
        rng = setting.rng("F5")
        judges, blocks = measured.judges, range(measured.n_blocks)
        picking = [_mean(pure(site, measured.chooses)[0]) for site in measured.neurons]
        best = int(np.nanargmax(picking)) if np.isfinite(picking).any() else 0

        def shares(sites: Sequence[PhoneSite], utterances: np.ndarray, label_set: int = 0) -> list[Estimate]:
            return [share(pure(site, utterances, label_set)[0], rng) for site in sites]

        rows = {
            "neurons": shares(measured.neurons, judges),
            "random directions": shares(measured.random, judges),
            "shifted labels": shares(measured.neurons, judges, 1),
            "untrained model": shares(measured.untrained, measured.all_judged),
            "principal directions": shares(measured.principal, judges),
        }
        controls = tuple(
            Control(name, text, {SHARE: _largest(rows[name])})
            for name, text in (
                ("random directions", "random orthonormal directions of the same activations"),
                (
                    "shifted labels",
                    "the examples of the neurons, with the labels of each utterance shifted in a circle",
                ),
                ("untrained model", "random weights, on the same utterances"),
            )
        )
        alive = int(measured.neurons[best].alive(judges).sum())
        labels = measured.labels(best)
        kinds = Counter(label.kind for label in labels)
        (mel,) = shares([measured.mel], judges)
        edges = np.linspace(0, 1, 11)
        by_clips = _by_clips(measured, best, rng)
        shown = {"neurons": measured.neurons[best], "random directions": measured.random[best]}
        return self.finding(
            setting,
            inputs=setting.inputs | measured.inputs(),
            criteria=(
                Criterion(SHARE, rows["neurons"][best], ENOUGH, "at least"),
                Criterion(
                    LARGEST, _largest([control.values[SHARE] for control in controls]), MOST_OF_CONTROLS, "at most"
                ),
                *measured.gates(),
                Criterion("neurons alive in the chosen block", Estimate(alive), 20, "at least", role="gate"),
            ),
            controls=controls,
            measurements=(
                Measurement(
                    "share by block",
                    (
                        Axis("features", tuple(rows)),
                        Axis("block", tuple(blocks)),
                        BOUNDS,
                    ),
                    np.array([[estimate.row for estimate in by_block] for by_block in rows.values()]),
                ),
                Measurement(
                    "features by purity",
                    (Axis("features", tuple(shown)), Axis("purity from", tuple(edges[:-1].round(2).tolist()))),
                    np.array([np.histogram(pure(site, judges)[1], edges - 1e-9)[0] for site in shown.values()]),
                    "features",
                ),
                *by_clips,
            ),
            tables=(_by_block(setting, measured, rows, mel), _examples(measured, best)),
            notes=(
                f"Block {best} was chosen: its share in the first half of the utterances is {picking[best]:.2f}. In "
                f"the second half, {alive} of its {len(labels)} neurons are alive.",
                *_clips_notes(measured, best, by_clips, rng),
                f"Automatic labels in block {best} from all utterances: {kinds['phone']} neurons are labeled with a "
                f"phone, {kinds['class']} with a class, {kinds['silence']} with silence, {kinds['none']} have no "
                "label. A label needs more evidence than pure examples: the neuron must detect the phone, or its "
                "examples must be purer than any with shifted labels.",
                f"The share among mel bands, the input of the encoder, is {_cell(mel)}.",
                "In a layer that encodes phones, random directions are phonetic too. If they reach the share of the "
                "neurons, the layer encodes phones, but not in single neurons.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the share and its controls, the share by block, the share by number of clips, and the purity of the
        examples."""
        table = finding.measurement("share by block")
        blocks = np.array(table.axis("block").entries)
        figure, axes = new_figure("Phonetic features by block", "encoder block", "share (%)")
        looks = ((BLUE, "o", "-"), (ORANGE, "^", "-"), (GRAY, "x", ":"), (PURPLE, "s", "--"), (GREEN, "v", "-."))
        for name, (color, marker, line) in zip(table.axis("features").entries, looks, strict=True):
            values = 100 * table.at(features=name)
            axes.plot(blocks, values[:, 0], color=color, marker=marker, linestyle=line, label=short(name))
            axes.fill_between(blocks, values[:, 1], values[:, 2], color=color, alpha=0.15, linewidth=0)
        axes.axhline(100 * ENOUGH, color=GRAY, linewidth=1)
        axes.set_xticks(blocks)
        axes.set_ylim(-2, 103)
        add_legend(axes, below=True)
        neurons = table.at(features="neurons", bound="value")
        figure.set_label(alt_text("Phonetic neurons by block", neurons, [f"block {b}" for b in blocks]))

        figures = [draw_controls(finding, 0, "share of features"), figure]
        if any(measurement.name == BY_CLIPS for measurement in finding.measurements):
            figures.append(_draw_by_clips(finding))
        spread = finding.measurement("features by purity")
        third, axes = new_figure(
            "Purity of the top examples", f"largest share of one label in the top {TOP}", "features (%)"
        )
        x = np.array(spread.axis("purity from").entries, dtype=float)
        for name, color, shift in zip(spread.axis("features").entries, (BLUE, ORANGE), (0.027, 0.073), strict=True):
            counts = spread.at(features=name)
            axes.bar(x + shift, 100 * counts / max(1, counts.sum()), width=0.044, color=color, label=name)
        axes.axvline(PURE, color=GRAY, linewidth=1)
        add_legend(axes)
        counts = spread.at(features="neurons")
        third.set_label(alt_text("Neurons by purity", counts / max(1, counts.sum()), [f"from {v:.1f}" for v in x]))
        return [*figures, third]


def _by_clips(evaluation: PhoneEvaluation, block: int, rng: np.random.Generator) -> tuple[Measurement, ...]:
    """Return the share of features with pure top examples, by the number of clips from which these are taken."""
    if not evaluation.top_purity:
        return ()
    values, names = [], []
    for kind, by_block in evaluation.top_purity.items():
        for k, by_size in zip(TOPS, by_block[block].by_size, strict=True):
            names.append(f"{kind}, top {k}")
            values.append([_pure_share(purities, rng).row for purities in by_size])
    axes = (Axis("features", tuple(names)), Axis("clips", evaluation.sizes), BOUNDS)
    return (Measurement(BY_CLIPS, axes, np.array(values)),)


def _pure_share(purities: Float[np.ndarray, "feature"], rng: np.random.Generator) -> Estimate:
    return share(purities[np.isfinite(purities)] >= PURE, rng)


def _clips_notes(
    evaluation: PhoneEvaluation, block: int, by_clips: tuple[Measurement, ...], rng: np.random.Generator
) -> tuple[str, ...]:
    """Return notes on how the share depends on the number of clips and on a lag."""
    if not by_clips:
        return ()
    lagged = {kind: _pure_share(by_block[block].lagged, rng) for kind, by_block in evaluation.top_purity.items()}
    values = by_clips[0].at(features=f"neurons, top {TOP}", bound="value")
    ten = by_clips[0].at(features=f"neurons, top {TOPS[0]}", bound="value")
    curve = ", ".join(f"{v:.2f} of {n}" for n, v in zip(evaluation.sizes, values, strict=True) if np.isfinite(v))
    return (
        f"The share depends on the number of clips from which the {TOP} strongest examples are taken. In block "
        f"{block}: {curve} clips; with the {TOPS[0]} strongest examples of {evaluation.sizes[-1]} clips, "
        f"{ten[-1]:.2f}. The published examples are the 10 strongest of 10,000 clips of 2 s. If the share still rises "
        "with the number of clips, it is a lower bound for such a search, and the verdict holds for this number of "
        "clips.",
        "A neuron may be strongest before or after its phone. With a separate lag for each neuron, up to "
        f"{20 * MOST_LAG} ms in either direction and chosen on the other half of the clips, the share is "
        f"{_cell(lagged['neurons'])}; for random directions it is {_cell(lagged['random directions'])}. A listener "
        "hears the context and allows for such a lag; the criterion does not.",
    )


def _mean(true: Bool[np.ndarray, "n"]) -> float:
    return float(true.mean()) if len(true) else float("nan")


def _largest(estimates: Sequence[Estimate]) -> Estimate:
    known = [estimate for estimate in estimates if estimate.value is not None]
    return max(known, key=lambda estimate: float(estimate.value or 0)) if known else Estimate(None)


def _by_block(setting: Setting, evaluation: PhoneEvaluation, rows: dict[str, list[Estimate]], mel: Estimate) -> Table:
    columns = ("features", *(f"block {b}" for b in range(evaluation.n_blocks)))
    cells = [(name, *(_cell(estimate) for estimate in by_block)) for name, by_block in rows.items()]
    cells.append(
        (f"mel bands ({len(evaluation.mel.phones.best)}, the encoder's input)", *[_cell(mel)] * evaluation.n_blocks)
    )
    f1 = [site.phones.f1[np.isfinite(site.phones.f1)] for site in evaluation.neurons]
    cells.append(("neurons: mean best-phone F1", *(f"{values.mean():.2f}" if len(values) else "–" for values in f1)))
    if evaluation.probes is not None:
        rng = setting.rng("F5 layers")
        cells.append(("layer as a whole: accuracy", *map(_cell, accuracies(evaluation.probes, rng))))
        cells += [(f"{name}: macro-F1", *map(_cell, row)) for name, row in estimates(evaluation.probes, rng).items()]
    return Table(
        "Share of features with a pure top 20, by block, and the layer as a whole", "this run", columns, tuple(cells)
    )


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "none alive"
    value, low, high = estimate.row
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _examples(evaluation: PhoneEvaluation, block: int) -> Table:
    """Return a table of the neurons with the best labels, at most two for each label."""
    labels = evaluation.labels(block)
    named = [i for i, label in enumerate(labels) if label.kind in ("phone", "class")]
    seen: Counter[str] = Counter()
    rows = []
    for i in sorted(named, key=lambda i: -labels[i].score):
        seen[labels[i].label] += 1
        if seen[labels[i].label] <= 2:
            rows.append((f"{block}.{i}", labels[i].text, labels[i].evidence))
    return Table("Neurons and their labels", "this run", ("neuron", "label", "evidence"), tuple(rows[:N_SHOWN]))


def _draw_by_clips(finding: Finding) -> Figure:
    table = finding.measurement(BY_CLIPS)
    clips = np.array(table.axis("clips").entries)
    figure, axes = new_figure(
        "Phonetic features by number of clips", "clips from which the examples are taken", "share (%)"
    )
    looks = ((BLUE, "o", ":"), (BLUE, "o", "-"), (ORANGE, "^", ":"), (ORANGE, "^", "-"))
    for name, (color, marker, line) in zip(table.axis("features").entries, looks, strict=True):
        values = 100 * table.at(features=name)
        axes.plot(
            clips, values[:, 0], color=color, marker=marker, linestyle=line, label=name.replace(" directions", "")
        )
        axes.fill_between(clips, values[:, 1], values[:, 2], color=color, alpha=0.15, linewidth=0)
    axes.axhline(100 * ENOUGH, color=GRAY, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(clips, [str(n) for n in clips], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-2, 103)
    add_legend(axes, below=True)
    neurons = table.at(features=f"neurons, top {TOP}", bound="value")
    figure.set_label(alt_text(f"Neurons with a pure top {TOP}", neurons, [f"{n} clips" for n in clips]))
    return figure
