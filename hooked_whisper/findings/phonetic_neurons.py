"""F5: neurons of the encoder's MLPs whose strongest examples are one phone, or one class of phones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from hooked_whisper.findings.core.context import Context
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
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.phones.evaluation import SAMPLE, PhoneEvaluation, phone_evaluation, share, short
from hooked_whisper.findings.phones.layer_probes import TEXT as PROBE_TEXT
from hooked_whisper.findings.phones.layer_probes import accuracies, estimates
from hooked_whisper.findings.phones.summaries import MOST_LAG, TOP, TOPS, PhoneSite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PURE, ENOUGH, MOST_OF_CONTROLS = 0.6, 0.6, 0.15
N_SHOWN = 15

ID, TITLE = "F5", "Phonetic neurons"
CLAIM = "Most neurons in an encoder MLP respond to one phone or to a few similar phones."
PROTOCOL = (
    f"{SAMPLE} Of each neuron the {TOP} strongest examples, one per utterance; phonetic: {PURE:.0%} of them or "
    "more are one phone (not silence) or one narrow articulatory class. Only neurons that are positive in "
    f"{TOP} utterances or more count (alive). Every second utterance of each speaker chooses the block of the largest "
    "share; the others give the share. Intervals: 95 %, bootstrap over neurons; utterances are not resampled, because "
    "an utterance drawn twice would be two equal examples. Each control is taken in the block where its share is "
    "largest in the half that judges, which favors it. Principal directions and mel bands are shown beside it. "
    f"{PROBE_TEXT} It is shown and not judged."
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
    site: PhoneSite, chosen: Bool[np.ndarray, "utterance"], labelling: int = 0
) -> tuple[Bool[np.ndarray, "alive"], Float[np.ndarray, "alive"]]:
    """Of the features that are alive among some utterances: which are phonetic, and their purity (the larger of that
    for phones and that for classes)."""
    phones, narrow = site.purity(chosen, labelling)
    both = np.fmax(phones.purity, narrow.purity)[site.alive(chosen)]
    return both >= PURE, both


def run(context: Context) -> Finding:
    """One evaluation, shared with F7 and F8."""
    found = phone_evaluation(context)
    if isinstance(found, str):
        return Finding(**_common(context), reason_untestable=found)
    return judge(context, found)


def judge(context: Context, found: PhoneEvaluation) -> Finding:
    """What the counts amount to."""
    rng = context.rng("F5")
    judges, blocks = found.judges, range(found.n_blocks)
    picking = [_mean(pure(site, found.chooses)[0]) for site in found.neurons]
    best = int(np.nanargmax(picking)) if np.isfinite(picking).any() else 0

    def shares(sites: Sequence[PhoneSite], chosen: np.ndarray, labelling: int = 0) -> list[Estimate]:
        return [share(pure(site, chosen, labelling)[0], rng) for site in sites]

    rows = {
        "neurons": shares(found.neurons, judges),
        "random directions": shares(found.random, judges),
        "shifted labels": shares(found.neurons, judges, 1),
        "untrained model": shares(found.untrained, found.own),
        "principal directions": shares(found.principal, judges),
    }
    controls = tuple(
        Control(name, text, {SHARE: _largest(rows[name])})
        for name, text in (
            ("random directions", "orthonormal directions of the same activations"),
            ("shifted labels", "the neurons' examples, with each utterance's labels turned in a circle"),
            ("untrained model", "random weights, the same utterances"),
        )
    )
    alive = int(found.neurons[best].alive(judges).sum())
    labels = found.labels(best)
    kinds = Counter(one.kind for one in labels)
    (mel,) = shares([found.mel], judges)
    edges = np.linspace(0, 1, 11)
    by_clips = _by_clips(found, best, rng)
    shown = {"neurons": found.neurons[best], "random directions": found.random[best]}
    return Finding(
        **_common(context, found),
        criteria=(
            Criterion(SHARE, rows["neurons"][best], ENOUGH, "at least"),
            Criterion(LARGEST, _largest([control.values[SHARE] for control in controls]), MOST_OF_CONTROLS, "at most"),
            *found.gates(),
            Criterion("neurons alive in the chosen block", Estimate(alive), 20, "at least", role="gate"),
        ),
        controls=controls,
        measurements=(
            Measurement(
                "share by block",
                (
                    Axis("features", tuple(rows)),
                    Axis("block", tuple(blocks)),
                    Axis("bound", ("value", "low", "high")),
                ),
                np.array([[one.row for one in by_block] for by_block in rows.values()]),
            ),
            Measurement(
                "features by purity",
                (Axis("features", tuple(shown)), Axis("purity from", tuple(edges[:-1].round(2).tolist()))),
                np.array([np.histogram(pure(site, judges)[1], edges - 1e-9)[0] for site in shown.values()]),
                "features",
            ),
            *by_clips,
        ),
        tables=(_by_block(context, found, rows, mel), _examples(found, best)),
        published=(PUBLISHED,),
        notes=(
            f"Block {best} was chosen: its share in the half that chooses is {picking[best]:.2f}; in the other half "
            f"{alive} of its {len(labels)} neurons are alive.",
            *_clips_notes(found, best, by_clips, rng),
            f"Automatic labels of block {best}, all utterances: {kinds['phone']} phones, {kinds['class']} classes, "
            f"{kinds['silence']} silence, {kinds['none']} without; labels need more evidence than pure examples: a "
            "detector, or examples purer than any with shifted labels.",
            f"Mel bands, before any block, have a share of {_cell(mel)} themselves.",
            "Random directions of a layer whose activations are phonetic are phonetic too: where they reach the share, "
            "it says that the layer knows phones, not that its neurons are their axes.",
        ),
    )


def _common(context: Context, found: PhoneEvaluation | None = None) -> dict[str, Any]:
    common = context.common(ID, TITLE, CLAIM, PROTOCOL)
    return {
        **common,
        "inputs": common["inputs"] | (found.inputs() if found is not None else {}),
        "parameters": {"top": TOP, "purity": PURE, "share": ENOUGH, "most_of_controls": MOST_OF_CONTROLS},
        "published_summary": PUBLISHED_IN_SHORT,
    }


def _by_clips(found: PhoneEvaluation, block: int, rng: np.random.Generator) -> tuple[Measurement, ...]:
    """Share of features with pure top examples in the chosen block, by the number of clips these are taken from."""
    if not found.top_purity:
        return ()
    values, names = [], []
    for kind, by_block in found.top_purity.items():
        for k, by_size in zip(TOPS, by_block[block].by_size, strict=True):
            names.append(f"{kind}, top {k}")
            values.append([_pure_share(purities, rng).row for purities in by_size])
    axes = (Axis("features", tuple(names)), Axis("clips", found.sizes), Axis("bound", ("value", "low", "high")))
    return (Measurement(BY_CLIPS, axes, np.array(values)),)


def _pure_share(purities: Float[np.ndarray, "feature"], rng: np.random.Generator) -> Estimate:
    return share(purities[np.isfinite(purities)] >= PURE, rng)


def _clips_notes(
    found: PhoneEvaluation, block: int, by_clips: tuple[Measurement, ...], rng: np.random.Generator
) -> tuple[str, ...]:
    """How much of the share depends on the method."""
    if not by_clips:
        return ()
    lagged = {kind: _pure_share(by_block[block].lagged, rng) for kind, by_block in found.top_purity.items()}
    values = by_clips[0].at(features=f"neurons, top {TOP}", bound="value")
    ten = by_clips[0].at(features=f"neurons, top {TOPS[0]}", bound="value")
    curve = ", ".join(f"{v:.2f} of {n}" for n, v in zip(found.sizes, values, strict=True) if np.isfinite(v))
    return (
        f"The share depends on how many clips the {TOP} strongest examples are taken from. Block {block}, all clips: "
        f"{curve}; of the {TOPS[0]} strongest of {found.sizes[-1]}, {ten[-1]:.2f}. The published examples are the 10 "
        "strongest of 10,000 clips of 2 s each. Where the curve still rises at its end, this share is a lower bound of "
        "what such a search finds, and the verdict holds for this number of clips.",
        "A neuron may be strongest before or after its phone. With a lag of each neuron's own, up to "
        f"{20 * MOST_LAG} ms either way and chosen in the other half of the clips, the share is "
        f"{_cell(lagged['neurons'])}, of random directions {_cell(lagged['random directions'])}. A listener hears the "
        "surroundings and allows for it; the criterion does not.",
    )


def _mean(true: Bool[np.ndarray, "n"]) -> float:
    return float(true.mean()) if len(true) else float("nan")


def _largest(estimates: Sequence[Estimate]) -> Estimate:
    known = [one for one in estimates if one.value is not None]
    return max(known, key=lambda one: float(one.value or 0)) if known else Estimate(None)


def _by_block(context: Context, found: PhoneEvaluation, rows: dict[str, list[Estimate]], mel: Estimate) -> Table:
    columns = ("features", *(f"block {b}" for b in range(found.n_blocks)))
    cells = [(name, *(_cell(one) for one in by_block)) for name, by_block in rows.items()]
    cells.append((f"mel bands ({len(found.mel.phones.best)}, before any block)", *[_cell(mel)] * found.n_blocks))
    f1 = [site.phones.f1[np.isfinite(site.phones.f1)] for site in found.neurons]
    cells.append(("neurons: mean best-phone F1", *(f"{one.mean():.2f}" if len(one) else "–" for one in f1)))
    if found.probes is not None:
        rng = context.rng("F5 layers")
        cells.append(("layer as a whole: accuracy", *map(_cell, accuracies(found.probes, rng))))
        cells += [(f"{name}: macro-F1", *map(_cell, row)) for name, row in estimates(found.probes, rng).items()]
    return Table(
        "Share of features with a pure top 20, by block, and the layer as a whole", "this run", columns, tuple(cells)
    )


def _cell(one: Estimate) -> str:
    if one.value is None:
        return "none alive"
    value, low, high = one.row
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _examples(found: PhoneEvaluation, block: int) -> Table:
    """The neurons with the best labels, one or two of each label so that not all are of one phone."""
    labels = found.labels(block)
    named = [i for i, one in enumerate(labels) if one.kind in ("phone", "class")]
    seen: Counter[str] = Counter()
    rows = []
    for i in sorted(named, key=lambda i: -labels[i].score):
        seen[labels[i].label] += 1
        if seen[labels[i].label] <= 2:
            rows.append((f"{block}.{i}", labels[i].text, labels[i].evidence))
    return Table("Neurons and their labels", "this run", ("neuron", "label", "evidence"), tuple(rows[:N_SHOWN]))


def draw(finding: Finding) -> list[Figure]:
    """The share beside its controls; by block; how pure the examples are."""
    if not finding.measurements:
        return []
    table = finding.measurement("share by block")
    blocks = np.array(table.axis("block").entries)
    figure, axes = new_figure("Phonetic features by block", "encoder block", "share (%)")
    looks = ((BLUE, "o", "-"), (ORANGE, "^", "-"), (GRAY, "x", ":"), (PURPLE, "s", "--"), (GREEN, "v", "-."))
    for name, (colour, marker, line) in zip(table.axis("features").entries, looks, strict=True):
        values = 100 * table.at(features=name)
        axes.plot(blocks, values[:, 0], color=colour, marker=marker, linestyle=line, label=short(name))
        axes.fill_between(blocks, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * ENOUGH, color=GRAY, linewidth=1)
    axes.set_xticks(blocks)
    axes.set_ylim(-2, 103)
    add_legend(axes, below=True)
    neurons = table.at(features="neurons", bound="value")
    figure.set_label(alt_text("Phonetic neurons by block", neurons, [f"block {b}" for b in blocks]))

    figures = [draw_controls(finding, 0, "share of features"), figure]
    if any(one.name == BY_CLIPS for one in finding.measurements):
        figures.append(_draw_by_clips(finding))
    spread = finding.measurement("features by purity")
    third, axes = new_figure(
        "How pure the top examples are", f"largest share of one label in the top {TOP}", "features (%)"
    )
    x = np.array(spread.axis("purity from").entries, dtype=float)
    for name, colour, shift in zip(spread.axis("features").entries, (BLUE, ORANGE), (0.027, 0.073), strict=True):
        counts = spread.at(features=name)
        axes.bar(x + shift, 100 * counts / max(1, counts.sum()), width=0.044, color=colour, label=name)
    axes.axvline(PURE, color=GRAY, linewidth=1)
    add_legend(axes)
    own = spread.at(features="neurons")
    third.set_label(alt_text("Neurons by purity", own / max(1, own.sum()), [f"from {v:.1f}" for v in x]))
    return [*figures, third]


def _draw_by_clips(finding: Finding) -> Figure:
    table = finding.measurement(BY_CLIPS)
    clips = np.array(table.axis("clips").entries)
    figure, axes = new_figure("More clips, purer examples?", "clips that the examples are taken from", "share (%)")
    looks = ((BLUE, "o", ":"), (BLUE, "o", "-"), (ORANGE, "^", ":"), (ORANGE, "^", "-"))
    for name, (colour, marker, line) in zip(table.axis("features").entries, looks, strict=True):
        values = 100 * table.at(features=name)
        axes.plot(
            clips, values[:, 0], color=colour, marker=marker, linestyle=line, label=name.replace(" directions", "")
        )
        axes.fill_between(clips, values[:, 1], values[:, 2], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * ENOUGH, color=GRAY, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(clips, [str(n) for n in clips], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-2, 103)
    add_legend(axes, below=True)
    own = table.at(features=f"neurons, top {TOP}", bound="value")
    figure.set_label(alt_text(f"Neurons with a pure top {TOP}", own, [f"{n} clips" for n in clips]))
    return figure
